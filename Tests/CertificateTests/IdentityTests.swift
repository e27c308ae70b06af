import Certificates
import Foundation
import Testing

@Suite("A node's folder")
struct IdentityTests {
  static let now = CertificateBench.now
  static let day = CertificateBench.day

  @Test("has a key that only its owner reads, and is refused when others may")
  func permissions() throws {
    let bench = try CertificateBench()
    let folder = try bench.node("agent/vm1")
    #expect(try CertificateBench.mode(folder + "/node.key") == 0o600)
    #expect(try NodeIdentity(directory: folder).name.description == "agent/vm1")
    for mode in [0o644, 0o640, 0o660, 0o601] {
      try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: folder + "/node.key")
      let refusal = words { _ = try NodeIdentity(directory: folder) }
      #expect(refusal.contains("node.key") && refusal.contains("chmod 600"), "\(refusal)")
    }
  }

  @Test("says which file is wrong and why")
  func broken() throws {
    let bench = try CertificateBench()
    let other = try CertificateBench()
    try other.authority.revoke(other.identity("agent/x").certificate.serial, at: Self.now)
    let foreignList = try other.authority.revocations(at: Self.now).pem
    let foreignKey = try String(contentsOfFile: bench.node("agent/vm2") + "/node.key", encoding: .utf8)
    let cases: [(file: String, content: String?, word: String)] = [
      ("node.key", nil, "No such file"), ("node.pem", nil, "No such file"), ("ca.pem", nil, "No such file"),
      ("node.key", "garbage", "not a P-256 private key"), ("node.key", foreignKey, "is not the key of"),
      ("node.pem", "", "no certificate"), ("node.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not the DER"),
      ("node.pem", String(repeating: "x", count: 100_000), "larger than"), ("ca.pem", other.authority.certificate.pem, "another CA"),
      ("ca.pem", try other.identity("agent/x").certificate.pem, "not that of a CA"), ("revoked.pem", "garbage", "not a revocation list"),
      ("revoked.pem", foreignList, "not signed by the CA"),
    ]
    for (file, content, word) in cases {
      let folder = try bench.node("agent/vm1")
      let path = "\(folder)/\(file)"
      if let content {
        try content.write(toFile: path, atomically: true, encoding: .utf8)
        if file == "node.key" { try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path) }
      } else {
        try FileManager.default.removeItem(atPath: path)
      }
      let refusal = words { _ = try NodeIdentity(directory: folder) }
      #expect(refusal.contains(word), "\(file): \(refusal)")
    }
  }

  @Test("is never overwritten unasked")
  func overwrite() throws {
    let bench = try CertificateBench()
    let folder = try bench.node("agent/vm1")
    let before = try NodeIdentity(directory: folder).certificate
    let (request, key) = try SigningRequest.make(for: NodeName("agent/vm1")!)
    let certificate = try bench.authority.issue(request, at: Self.now)
    #expect(
      words { try NodeFolder(folder).write(certificate, key: key, roots: bench.roots, revocations: nil) }.contains("is there already"))
    #expect(try NodeIdentity(directory: folder).certificate == before)
    try NodeFolder(folder).write(certificate, key: key, roots: bench.roots, revocations: nil, overwrite: true)
    #expect(try NodeIdentity(directory: folder).certificate == certificate)
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder).sorted() == ["ca.pem", "lock", "node.key", "node.pem"])
  }

  @Test("is whole at every moment of a renewal, also when the machine stops in the middle")
  func stopped() throws {
    let bench = try CertificateBench()
    let folder = try bench.node("agent/vm1")
    let fresh = try bench.node("agent/vm1")
    let old = try NodeIdentity(directory: folder).certificate
    let new = try NodeIdentity(directory: fresh).certificate
    // Step 1: the new key waits beside the old one.
    try FileManager.default.copyItem(atPath: fresh + "/node.key", toPath: folder + "/node.key.next")
    #expect(try NodeIdentity(directory: folder).certificate == old)
    // Step 2: the certificate has changed, its key has not moved yet.
    try FileManager.default.removeItem(atPath: folder + "/node.pem")
    try FileManager.default.copyItem(atPath: fresh + "/node.pem", toPath: folder + "/node.pem")
    let identity = try NodeIdentity(directory: folder)
    #expect(identity.certificate == new)
    let peer = try identity.verify(identity.sign([1, 2, 3]), over: [1, 2, 3], by: new.der, expecting: .agent("vm1"), at: Self.now)
    #expect(peer == identity.name)
  }

  @Test("stays whole when several renew it at the same moment, and whatever a killed program left there")
  func together() async throws {
    let bench = try CertificateBench()
    let folder = try bench.node("agent/vm1")
    try "half a cert".write(toFile: folder + "/node.pem.new", atomically: true, encoding: .utf8)
    let (authority, roots) = (bench.authority, bench.roots)
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<8 {
        group.addTask {
          let (request, key) = try SigningRequest.make(for: NodeName("agent/vm1")!)
          let certificate = try authority.issue(request, at: Self.now)
          try NodeFolder(folder).write(certificate, key: key, roots: roots, revocations: nil, overwrite: true)
        }
      }
      try await group.waitForAll()
    }
    #expect(throws: Never.self) { try NodeIdentity(directory: folder) }
    #expect(try FileManager.default.contentsOfDirectory(atPath: folder).sorted() == ["ca.pem", "lock", "node.key", "node.pem"])
  }

  @Test("is read again when it changes, and an older list of revocations does not undo a newer one")
  func reload() throws {
    let bench = try CertificateBench()
    let folder = try bench.node("agent/vm1")
    let victim = try bench.identity("client/lost")
    let keeper = try IdentityKeeper(directory: folder)
    #expect(try !keeper.reloadIfChanged())
    func refusal() -> String { words { _ = try keeper.current.verify(victim.certificate.der, expecting: .client, at: Self.now) } }
    #expect(refusal() == "no error")
    let empty = try bench.authority.revocations(at: Self.now)
    try bench.authority.revoke("client/lost", at: Self.now)
    try NodeFolder(folder).write(bench.authority.revocations(at: Self.now))
    #expect(try keeper.reloadIfChanged())
    #expect(refusal().contains("revoked"))
    try NodeFolder(folder).write(empty)
    #expect(try keeper.reloadIfChanged())
    #expect(refusal().contains("revoked"))
    try FileManager.default.removeItem(atPath: folder + "/revoked.pem")
    #expect(try keeper.reloadIfChanged())
    #expect(refusal().contains("revoked"))
    // A new certificate counts, and what cannot be read leaves all as it was.
    let (request, key) = try SigningRequest.make(for: NodeName("agent/vm1")!)
    let renewed = try bench.authority.issue(request, at: Self.now)
    try NodeFolder(folder).write(renewed, key: key, roots: bench.roots, revocations: nil, overwrite: true)
    #expect(try keeper.reloadIfChanged())
    #expect(keeper.current.certificate == renewed)
    #expect(refusal().contains("revoked"))
    try "garbage".write(toFile: folder + "/node.pem", atomically: true, encoding: .utf8)
    #expect(throws: Refusal.self) { try keeper.reloadIfChanged() }
    #expect(keeper.current.certificate == renewed)
  }

  @Test("says in time that its certificate must be renewed, and that its list is old")
  func warnings() throws {
    let bench = try CertificateBench()
    let identity = try bench.identity("agent/vm1", revocations: bench.authority.revocations(at: Self.now))
    #expect(identity.warnings(at: Self.now + 29 * Self.day).isEmpty)
    #expect(identity.warnings(at: Self.now + 31 * Self.day).contains { $0.contains("revocation list is from 2027-01-15") })
    #expect(!identity.isDueForRenewal(at: Self.now + 59 * Self.day) && identity.isDueForRenewal(at: Self.now + 61 * Self.day))
    #expect(identity.warnings(at: Self.now + 61 * Self.day).contains { $0.contains("expires on 2027-04-15") && $0.contains("pki renew") })
    #expect(identity.warnings(at: Self.now + 91 * Self.day).contains { $0.contains("expired on 2027-04-15") })
  }
}
