import Certificates
import Foundation
import Testing
import Vocabulary

@Suite("The CA")
struct AuthorityTests {
  static let now = CertificateBench.now
  static let day = CertificateBench.day

  static func secret(_ token: EnrolmentToken) throws -> [UInt8] { try EnrolmentToken("\(token)").secret }
  static func request(_ name: String) throws -> SigningRequest { try SigningRequest.make(for: NodeName(name)!).0 }

  @Test("is not made over another, unless it is said twice")
  func twice() throws {
    let bench = try CertificateBench()
    let folder = bench.folder + "/ca"
    #expect(words { try Authority.create(folder, at: Self.now) }.contains("is there already"))
    #expect(try Authority(folder).certificate == bench.authority.certificate)
    let second = try Authority.create(folder, overwrite: true, at: Self.now)
    #expect(second.certificate != bench.authority.certificate)
    #expect(second.certificate.subject != bench.authority.certificate.subject)
    #expect(try Authority(folder).issued().isEmpty)
  }

  @Test("keeps its key and its ledger from everyone else, and works with neither when others may read them")
  func permissions() throws {
    let bench = try CertificateBench()
    for file in ["ca.key", "ledger.json"] {
      let path = "\(bench.folder)/ca/\(file)"
      #expect(try CertificateBench.mode(path) == 0o600)
      for mode in [0o640, 0o604, 0o620] {
        try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: path)
        let refusal = words { _ = try Authority(bench.folder + "/ca").issued() }
        #expect(refusal.contains(path) && refusal.contains("chmod 600"), "\(refusal)")
      }
      try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
    }
    #expect(try CertificateBench.mode(bench.folder + "/ca") == 0o700)
    #expect(try Authority(bench.folder + "/ca").issued().isEmpty)
  }

  @Test("does not work with a ledger that is cut short or garbage, and changes nothing in it")
  func ledger() throws {
    let bench = try CertificateBench()
    _ = try bench.node("agent/vm1")
    let token = try bench.authority.makeToken(role: .agent, name: "vm2", at: Self.now)
    try bench.authority.revoke("agent/vm1", at: Self.now)
    let path = bench.folder + "/ca/ledger.json"
    let good = try Data(contentsOf: URL(fileURLWithPath: path))
    func put(_ data: Data) throws {
      // In place, so that the mode stays.
      let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
      try file.truncate(atOffset: 0)
      try file.write(contentsOf: data)
      try file.close()
    }
    for length in 0..<good.count {
      try put(good.prefix(length))
      let refusal = words { _ = try bench.authority.redeem(secret: token.secret, Self.request("agent/vm2"), at: Self.now) }
      #expect(refusal.contains("ledger.json") && refusal.contains("not the ledger"), "\(length): \(refusal)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: path)) == good.prefix(length))
    }
    try put(Data(String(decoding: good, as: UTF8.self).replacingOccurrences(of: "\"version\":1", with: "\"version\":2").utf8))
    #expect(words { try bench.authority.revoke("agent/vm1", at: Self.now) }.contains("newer version"))
    try put(good)
    #expect(throws: Never.self) { try bench.authority.redeem(secret: token.secret, Self.request("agent/vm2"), at: Self.now) }
  }

  @Test("gives a certificate for a token once, for the name on it, and before it expires")
  func tokens() throws {
    let bench = try CertificateBench()
    let token = try bench.authority.makeToken(role: .agent, name: "vm1", at: Self.now)
    let secret = try Self.secret(token)
    func why(_ secret: [UInt8], _ name: String, _ date: Date = Self.now + 60) -> String {
      words { _ = try bench.authority.redeem(secret: secret, Self.request(name), at: date) }
    }
    #expect(why(secret, "agent/vm2").contains("it is for agent/vm1, and agent/vm2 was asked for"))
    #expect(why(secret, "client/vm1").contains("it is for the role agent, and client/vm1 was asked for"))
    #expect(why(secret, "agent/vm1", Self.now + 1_801).contains("it expired on 2027-01-15 08:30:00 UTC"))
    #expect(why(Array(repeating: 7, count: 24), "agent/vm1").contains("no such token"))
    #expect(why(secret, "agent/vm1") == "no error")
    #expect(why(secret, "agent/vm1").contains("it was used on 2027-01-15 08:01:00 UTC"))
    let ledger = try String(contentsOfFile: bench.folder + "/ca/ledger.json", encoding: .utf8)
    #expect(!ledger.contains("\(token)".split(separator: ".")[1]), "the secret is in the ledger")
    // For any node of a role.
    let open = try Self.secret(bench.authority.makeToken(role: .client, name: nil, at: Self.now))
    #expect(why(open, "agent/x").contains("role"))
    _ = try bench.node("client/desk")
    #expect(why(open, "client/desk").contains("a node has the name client/desk already"))
    #expect(why(open, "client/whoever") == "no error")
    #expect(try bench.authority.issued().map(\.name) == ["agent/vm1", "client/desk", "client/whoever"])
  }

  @Test("gives one certificate for a token though many ask at the same moment")
  func race() async throws {
    let bench = try CertificateBench()
    let authority = bench.authority
    let secret = try Self.secret(authority.makeToken(role: .agent, name: "vm1", at: Self.now))
    let given = await withTaskGroup(of: Bool.self) { group in
      for _ in 0..<16 {
        group.addTask { (try? authority.redeem(secret: secret, Self.request("agent/vm1"), at: Self.now)) != nil }
      }
      return await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
    }
    #expect(given == 1)
    #expect(try authority.issued().count == 1)
  }

  @Test("refuses what is no token, in any length and any octets")
  func malformedTokens() throws {
    let bench = try CertificateBench()
    let token = try bench.authority.makeToken(role: .agent, name: "vm1.example", at: Self.now)
    let good = "\(token)"
    #expect(token.name?.description == "agent/vm1.example")
    #expect(try EnrolmentToken(good) == token)
    let open = try bench.authority.makeToken(role: .client, name: nil, at: Self.now)
    #expect(try EnrolmentToken("\(open)") == open && open.name == nil)
    let longest = try bench.authority.makeToken(role: .accelerator, name: String(repeating: "a", count: 63), at: Self.now)
    #expect("\(longest)".utf8.count == EnrolmentToken.maximumCharacters)
    #expect(try EnrolmentToken("\(longest)") == longest)
    // Cut within the name it is a token for another name, which the CA will not have.
    for length in 0..<(good.count - "vm1.example".count - 1) {
      #expect(throws: Refusal.token(.malformed)) { try EnrolmentToken(String(good.prefix(length))) }
    }
    var generator = SeededGenerator(seed: 11)
    for _ in 0..<2_000 {
      var octets = Array(good.utf8)
      octets[Int.random(in: 0..<octets.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
      let text = String(decoding: octets, as: UTF8.self)
      // What still reads as a token is the same text, so that no two texts are one token.
      if let token = try? EnrolmentToken(text) { #expect(token.description == text) }
    }
  }

  @Test("renews for the same name, with a new key, and not what it has revoked or never gave")
  func renewal() throws {
    let bench = try CertificateBench()
    let agent = try bench.identity("agent/vm1")
    let peer = try agent.verify(agent.certificate.der, expecting: .agent("vm1"), at: Self.now)
    let renewed = try bench.authority.renew(peer, Self.request("agent/vm1"), at: Self.now + 60 * Self.day)
    #expect(renewed.name == agent.name && renewed.serial != agent.certificate.serial)
    #expect(renewed.notAfter == Self.now + 150 * Self.day)
    #expect(words { _ = try bench.authority.renew(peer, Self.request("agent/vm2"), at: Self.now) }.contains("agent/vm2 was asked for"))
    try bench.authority.revoke(agent.certificate.serial, at: Self.now)
    #expect(words { _ = try bench.authority.renew(peer, Self.request("agent/vm1"), at: Self.now) }.contains("revoked"))
    try Authority.create(bench.folder + "/ca", overwrite: true, at: Self.now)
    #expect(words { _ = try bench.authority.renew(peer, Self.request("agent/vm1"), at: Self.now) }.contains("has issued no certificate"))
  }

  @Test("never gives a certificate that outlives it, nor one of its own role")
  func bounds() throws {
    let bench = try CertificateBench(at: Self.now - 3_642 * Self.day)
    let last = try bench.authority.issue(Self.request("agent/vm1"), at: Self.now)
    #expect(last.notAfter == bench.authority.certificate.notAfter)
    #expect(words { _ = try bench.authority.issue(Self.request("agent/vm1"), at: Self.now + 11 * Self.day) }.contains("the CA expired"))
    #expect(words { _ = try bench.authority.issue(Self.request("authority/x"), at: Self.now) }.contains("no node is an authority"))
    #expect(words { _ = try bench.authority.makeToken(role: .authority, name: "x", at: Self.now) }.contains("no node is an authority"))
    #expect(
      words { _ = try bench.authority.issue(Self.request("agent/x"), lifetimeSeconds: 400 * Self.day, at: Self.now) }.contains("397 days"))
    #expect(words { _ = try bench.authority.makeToken(role: .agent, name: "a/b", at: Self.now) }.contains("is no name for a node"))
    #expect(words { _ = try bench.authority.makeToken(role: .agent, name: "a", lifetimeSeconds: 0, at: Self.now) }.contains("minutes"))
  }

  @Test("refuses requests that are garbage, changed, or for no name")
  func requests() throws {
    let (request, _) = try SigningRequest.make(for: NodeName("agent/vm1")!)
    #expect(try SigningRequest(pem: request.pem).name.description == "agent/vm1")
    for text in ["", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----", String(repeating: "x", count: 10_000)] {
      #expect(throws: Refusal.self) { try SigningRequest(pem: text) }
    }
    var lines = request.pem.split(separator: "\n").map(String.init)
    for index in 1..<(lines.count - 1) {
      let line = lines[index]
      for place in stride(from: 0, to: line.count - 4, by: 5) {
        var characters = Array(line)
        characters[place] = characters[place] == "A" ? "B" : "A"
        lines[index] = String(characters)
        #expect(throws: Refusal.self, "line \(index), character \(place)") { try SigningRequest(pem: lines.joined(separator: "\n")) }
      }
      lines[index] = line
    }
  }
}

@Suite("The list of revocations")
struct RevocationTests {
  static let now = CertificateBench.now
  static let day = CertificateBench.day

  @Test("is read back as it was written, and believed of the CA that signed it only")
  func roundTrip() throws {
    let bench = try CertificateBench()
    #expect(try bench.authority.revocations(at: Self.now).entries.isEmpty)
    for index in 0..<20 {
      _ = try bench.node("agent/vm\(index)")
      try bench.authority.revoke("agent/vm\(index)", at: Self.now + Double(index))
    }
    let list = try bench.authority.revocations(at: Self.now + 20)
    #expect(list.number == 21 && list.entries.count == 20)
    #expect(list.entries.map(\.date) == (0..<20).map { Self.now + Double($0) })
    #expect(Set(list.entries.map(\.serial)) == Set(try bench.authority.issued().map(\.serial)))
    #expect(list.nextUpdate == Self.now + 19 + 30 * Self.day)
    #expect(try RevocationList(pem: list.pem) == list)
    #expect(throws: Never.self) { try TrustStore(roots: bench.roots, revocations: list) }
    let other = try CertificateBench()
    #expect(throws: Refusal.self) { try TrustStore(roots: other.roots, revocations: list) }
  }

  @Test("is not believed when it is cut short or changed in any octet")
  func changed() throws {
    let bench = try CertificateBench()
    _ = try bench.node("agent/vm1")
    try bench.authority.revoke("agent/vm1", at: Self.now)
    let good = try bench.authority.revocations(at: Self.now).der
    for length in 0..<good.count { #expect(throws: Refusal.self) { try RevocationList(der: Array(good[..<length])) } }
    for index in good.indices {
      for flip in [UInt8(1), 0x80, 0xFF] {
        var changed = good
        changed[index] ^= flip
        #expect(throws: Refusal.self, "octet \(index)") { try TrustStore(roots: bench.roots, revocations: RevocationList(der: changed)) }
      }
    }
    var generator = SeededGenerator(seed: 5)
    for _ in 0..<2_000 {
      let bytes = (0..<Int.random(in: 0...300, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
      #expect(throws: Refusal.self) { try RevocationList(der: bytes) }
    }
  }

  @Test("forgets a certificate a day after it has expired, and is made anew at half its life")
  func sweep() throws {
    let bench = try CertificateBench()
    _ = try bench.node("agent/short", lifetimeSeconds: 10 * Self.day)
    _ = try bench.node("agent/long")
    try bench.authority.revoke("agent/short", at: Self.now)
    #expect(try bench.authority.revocations(at: Self.now + 14 * Self.day).entries.count == 1)
    let later = try bench.authority.revocations(at: Self.now + 16 * Self.day)
    #expect(later.entries.isEmpty && later.issued == Self.now + 16 * Self.day)
    #expect(try bench.authority.issued().map(\.name) == ["agent/long"])
    #expect(words { try bench.authority.revoke("agent/short", at: Self.now + 16 * Self.day) }.contains("has issued no certificate"))
    #expect(try bench.authority.revoke("agent/long", at: Self.now + 16 * Self.day) == 1)
    #expect(try bench.authority.revoke("agent/long", at: Self.now + 17 * Self.day) == 0)
  }

  @Test("holds a thousand, and says when it is full")
  func full() throws {
    let bench = try CertificateBench()
    // One key for all, since only their number counts here.
    let (request, _) = try SigningRequest.make(for: NodeName("agent/many")!)
    let path = bench.folder + "/ca/ledger.json"
    _ = try bench.authority.issue(request, at: Self.now)
    let text = try String(contentsOfFile: path, encoding: .utf8)
    let start = try #require(text.range(of: "\"certificates\":[")).upperBound
    let end = try #require(text.range(of: "]", range: start..<text.endIndex)).lowerBound
    let entry = String(text[start..<end])
    let serial = try bench.authority.issued()[0].serial
    func many(_ count: Int) throws {
      let entries = (0..<count).map { entry.replacingOccurrences(of: serial, with: String(0x1000_0000 + $0, radix: 16)) }
      try text.replacingCharacters(in: start..<end, with: entries.joined(separator: ",")).write(
        toFile: path, atomically: true, encoding: .utf8)
      try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
    }
    try many(RevocationList.maximumEntries)
    #expect(try bench.authority.revoke("agent/many", at: Self.now) == RevocationList.maximumEntries)
    #expect(try bench.authority.revocations(at: Self.now).entries.count == RevocationList.maximumEntries)
    try many(RevocationList.maximumEntries + 1)
    #expect(words { try bench.authority.revoke("agent/many", at: Self.now) }.contains("1000 revocations"))
  }
}
