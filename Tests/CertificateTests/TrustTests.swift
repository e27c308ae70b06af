import Certificates
import Control
import Crypto
import Foundation
import SwiftASN1
import Testing
import Vocabulary
import X509

@Suite("A certificate is believed")
struct TrustTests {
  static let now = CertificateBench.now
  static let day = CertificateBench.day

  @Test("when the CA in ca.pem signed it, for a name and a role that are expected")
  func good() throws {
    let bench = try CertificateBench()
    let agent = try bench.identity("agent/vm1")
    let client = try bench.identity("client/desk")
    let peer = try client.verify(agent.certificate.der, expecting: .agent("vm1"), at: Self.now)
    #expect(peer.name == NodeName(role: .agent, name: "vm1"))
    #expect(agent.notAfter.timeIntervalSince(Self.now) == 90 * Self.day)
    #expect(agent.warnings(at: Self.now).isEmpty)
  }

  @Test("only then: each refusal says why")
  func refusals() throws {
    let bench = try CertificateBench()
    let other = try CertificateBench()
    let us = try bench.identity("client/desk")
    func why(_ certificate: NodeCertificate, _ expectation: PeerExpectation, _ date: Date = Self.now) -> String {
      words { _ = try us.verify(certificate.der, expecting: expectation, at: date) }
    }
    let agent = try bench.identity("agent/vm1").certificate
    let accelerator = try bench.identity("accelerator/west").certificate
    #expect(why(agent, .agent(nil), Self.now + 91 * Self.day).contains("agent/vm1 expired on 2027-04-15"))
    #expect(why(agent, .agent(nil), Self.now - 400).contains("valid from"))
    #expect(why(agent, .agent(nil), Self.now + 4_000 * Self.day).contains("the CA expired on"))
    #expect(why(accelerator, .agent(nil)) == "the peer is accelerator/west, where an agent is expected")
    #expect(why(accelerator, PeerExpectation([.agent, .client])) == "the peer is accelerator/west, where an agent or a client is expected")
    #expect(why(agent, .agent("vm2")) == "the peer is agent/vm1, where agent/vm2 is expected")
    #expect(why(try other.identity("agent/vm1").certificate, .agent(nil)).contains("another CA"))
    #expect(why(bench.authority.certificate, .agent(nil)).contains("that of a CA"))
  }

  @Test("not when it has been revoked, and the error says since when")
  func revoked() throws {
    let bench = try CertificateBench()
    let agent = try bench.identity("agent/vm1")
    #expect(try bench.authority.revoke("agent/vm1", at: Self.now + 60) == 1)
    let list = try bench.authority.revocations(at: Self.now + 61)
    let us = try bench.identity("client/desk", revocations: list)
    #expect(
      words { _ = try us.verify(agent.certificate.der, expecting: .agent(nil), at: Self.now + 62) }
        == "the certificate of agent/vm1 was revoked on 2027-01-15 08:01:00 UTC")
    // A node with the same name and a new certificate is a new one.
    let again = try bench.identity("agent/vm1", at: Self.now + 100)
    #expect(throws: Never.self) { try us.verify(again.certificate.der, expecting: .agent("vm1"), at: Self.now + 101) }
  }

  /// A certificate by the CA's own key with something about it that is not a node's.
  static func odd(
    _ bench: CertificateBench, names: [String] = ["longhaul://agent/vm1"], usage: KeyUsage = KeyUsage(digitalSignature: true),
    purposes: [ExtendedKeyUsage.Usage] = [.clientAuth, .serverAuth], isAuthority: Bool = false, unknown: Bool = false,
    key: Certificate.PrivateKey = .init(P256.Signing.PrivateKey())
  ) throws -> NodeCertificate {
    let authorityKey = try P256.Signing.PrivateKey(
      pemRepresentation: String(contentsOfFile: bench.folder + "/ca/ca.key", encoding: .utf8))
    let root = try Certificate(derEncoded: bench.authority.certificate.der)
    let certificate = try Certificate(
      version: .v3, serialNumber: .init(), publicKey: key.publicKey, notValidBefore: now - 60, notValidAfter: now + 60,
      issuer: root.subject,
      subject: try DistinguishedName { CommonName("agent/vm1") }, signatureAlgorithm: .ecdsaWithSHA256,
      extensions: try Certificate.Extensions {
        Critical(isAuthority ? BasicConstraints.isCertificateAuthority(maxPathLength: nil) : .notCertificateAuthority)
        Critical(usage)
        try ExtendedKeyUsage(purposes)
        SubjectAlternativeNames(names.map { .uniformResourceIdentifier($0) })
        if unknown { Certificate.Extension(oid: [1, 3, 6, 1, 4, 1, 99999, 1], critical: true, value: [5, 0]) }
      }, issuerPrivateKey: .init(authorityKey))
    var serializer = DER.Serializer()
    try serializer.serialize(certificate)
    return try NodeCertificate(der: serializer.serializedBytes)
  }

  @Test("not when it is for another use, though the CA signed it")
  func otherUse() throws {
    let bench = try CertificateBench()
    let us = try bench.identity("client/desk")
    func why(_ certificate: NodeCertificate) -> String {
      words { _ = try us.verify(certificate.der, expecting: .agent("vm1"), at: Self.now) }
    }
    #expect(why(try Self.odd(bench)) == "no error")
    #expect(why(try Self.odd(bench, names: [])).contains("has no name"))
    #expect(why(try Self.odd(bench, names: ["longhaul://agent/vm1", "longhaul://client/vm1"])).contains("has no name"))
    #expect(why(try Self.odd(bench, names: ["longhaul://agent/vm1\n"])).contains("has no name"))
    #expect(why(try Self.odd(bench, usage: KeyUsage(keyEncipherment: true))).contains("not for signatures"))
    #expect(why(try Self.odd(bench, purposes: [.clientAuth])).contains("both ends"))
    #expect(why(try Self.odd(bench, isAuthority: true)).contains("that of a CA"))
    #expect(why(try Self.odd(bench, unknown: true)).contains("1.3.6.1.4.1.99999.1 is critical"))
    #expect(why(try Self.odd(bench, key: .init(P384.Signing.PrivateKey()))).contains("not ECDSA on P-256"))
  }

  @Test("never when it is garbage, cut short, or changed in any octet")
  func garbage() throws {
    let bench = try CertificateBench()
    let us = try bench.identity("client/desk")
    let good = try bench.identity("agent/vm1").certificate.der
    for length in 0..<good.count {
      #expect(throws: Refusal.self) { try us.verify(Array(good[..<length]), expecting: .agent(nil), at: Self.now) }
    }
    for index in good.indices {
      var changed = good
      changed[index] ^= 0x41
      #expect(throws: Refusal.self, "octet \(index)") { try us.verify(changed, expecting: .agent(nil), at: Self.now) }
    }
    var generator = SeededGenerator(seed: 3)
    for _ in 0..<2_000 {
      let bytes = (0..<Int.random(in: 0...600, using: &generator)).map { _ in UInt8.random(in: 0...255, using: &generator) }
      #expect(throws: Refusal.self) { try us.verify(bytes, expecting: .agent(nil), at: Self.now) }
    }
    #expect(throws: Refusal.self) { try NodeCertificate(der: [UInt8](repeating: 0x30, count: 5_000)) }
  }

  @Test("only from PEM that is whole: lines cut, repeated, exchanged or filled with anything give an error or no other certificate")
  func pem() throws {
    let bench = try CertificateBench()
    let certificate = try bench.identity("agent/vm1").certificate
    let good = certificate.pem
    #expect(try NodeCertificate.all(pem: "words before\n" + good + good) == [certificate, certificate])
    var generator = SeededGenerator(seed: 7)
    for _ in 0..<5_000 {
      var octets = Array(good.utf8)
      for _ in 0..<Int.random(in: 1...4, using: &generator) {
        let place = Int.random(in: 0..<octets.count, using: &generator)
        switch Int.random(in: 0..<4, using: &generator) {
        case 0: octets[place] = UInt8.random(in: 0...127, using: &generator)
        case 1: octets.remove(at: place)
        case 2: octets.insert(10, at: place)
        default: octets.removeSubrange(place..<min(octets.count, place + 65))
        }
        if octets.isEmpty { break }
      }
      let found = (try? NodeCertificate.all(pem: String(decoding: octets, as: UTF8.self))) ?? []
      let trust = try TrustStore(roots: bench.roots)
      for other in found where other != certificate {
        #expect(throws: Refusal.self) { try trust.verify(other, expecting: .agent(nil), at: Self.now) }
      }
    }
  }

  @Test("of a GO only when a controller signed it, and nothing in it has changed")
  func goTokens() throws {
    let bench = try CertificateBench()
    let controller = try bench.identity("controller/brain")
    let client = try bench.identity("client/desk")
    let token = GoToken(
      machine: "vm", epoch: 3, agent: Endpoint("10.2.0.4:7600")!,
      path: .accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a", "b"]), expires: 2_000_000_000)
    let signed = try controller.sign(token)
    #expect(try client.verify(signed, at: Self.now).description == "controller/brain")
    let back = try JSONDecoder().decode(GoToken.self, from: JSONEncoder().encode(signed))
    #expect(back == signed)
    #expect(try client.verify(back, at: Self.now).role == .controller)
    let changes: [(inout GoToken) -> Void] = [
      { $0.machine = "vm2" }, { $0.epoch = 4 }, { $0.agent = Endpoint("10.2.0.5:7600")! }, { $0.path = .direct }, { $0.expires += 1 },
      { $0.path = .accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a\nb"]) }, { $0.signature?.removeLast(4) },
      { $0.signature = nil }, { $0.certificate = nil }, { $0.certificate = "zz" }, { $0.signature = "!" }, { $0.signature = "" },
      { $0.certificate = String(repeating: "A", count: 100_000) },
      { $0.certificate = Data(client.certificate.der).base64EncodedString() },
    ]
    for (number, change) in changes.enumerated() {
      var changed = signed
      change(&changed)
      #expect(throws: Refusal.self, "change \(number)") { try client.verify(changed, at: Self.now) }
    }
    #expect(words { try client.verify(try client.sign(token), at: Self.now) }.contains("where a controller is expected"))
    #expect(words { try client.verify(signed, at: Self.now + 91 * Self.day) }.contains("expired"))
    let stranger = try CertificateBench().identity("controller/brain")
    #expect(words { try client.verify(try stranger.sign(token), at: Self.now) }.contains("another CA"))
    try bench.authority.revoke("controller/brain", at: Self.now)
    let warned = try bench.identity("client/lap", revocations: bench.authority.revocations(at: Self.now))
    #expect(words { try warned.verify(signed, at: Self.now) }.contains("revoked"))
  }

  @Test("a token without certificates reads and writes as it always did")
  func goTokenCompatibility() throws {
    let token = GoToken(machine: "vm", epoch: 3, agent: Endpoint("10.2.0.4:7600")!, path: .direct, expires: 9, mac: "00")
    let text = String(decoding: try JSONEncoder().encode(token), as: UTF8.self)
    #expect(!text.contains("certificate") && !text.contains("signature"))
    #expect(try JSONDecoder().decode(GoToken.self, from: Data(text.utf8)) == token)
  }
}
