import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// What a CA has given out: certificates, and tokens for more. One JSON file, replaced whole under a lock, so that a token is good once whoever asks,
/// and however often the machine stops in the middle.
struct Ledger: Codable, Equatable, Sendable {
  struct IssuedCertificate: Codable, Equatable, Sendable {
    var serial: String
    var name: String
    /// Seconds since 1970, as all times here.
    var notBefore: Int64
    var notAfter: Int64
    var revokedAt: Int64?
  }

  struct IssuedToken: Codable, Equatable, Sendable {
    /// In hexadecimal digits; the secret itself is nowhere.
    var hash: String
    var role: CertificateRole
    /// Nil if a node of the role may choose its name.
    var name: String?
    var expires: Int64
    var usedAt: Int64?
  }

  /// 10,000 nodes renewed twice while their first certificate lives would be 30,000; at 170 octets of JSON each, 5 MiB.
  static let maximumCertificates = 30_000
  /// A thousand machines enrolled at once.
  static let maximumTokens = 1_000
  /// Used and expired tokens stay so long, so that who comes late hears why: 7 days.
  static let tokenMemorySeconds: Int64 = 7 * 86_400
  /// An expired certificate stays in the ledger, and in the revocation list if it was revoked, for a day more: clocks differ (RFC 5280 section 3.3 wants
  /// one list after the expiry).
  static let certificateMemorySeconds: Int64 = 86_400
  /// The above, and room.
  static let maximumOctets = 8 << 20

  var version = 1
  /// Of the last revocation list.
  var listNumber: UInt64 = 0
  var certificates: [IssuedCertificate] = []
  var tokens: [IssuedToken] = []

  init() {}

  init(contentsOf path: String) throws(CertificateError) {
    let bytes = try PrivateFiles.read(path, limit: Ledger.maximumOctets, isSecret: true)
    let ledger: Ledger
    do { ledger = try JSONDecoder().decode(Ledger.self, from: Data(bytes)) } catch {
      throw .content(path: path, why: "not the ledger of a CA; restore it from a copy, for it holds what has been revoked")
    }
    guard ledger.version == 1 else {
      throw .content(path: path, why: "written by a newer version of longhaul (ledger version \(ledger.version))")
    }
    self = ledger
  }

  func write(to path: String) throws(CertificateError) {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys]
    let bytes: Data
    do { bytes = try encoder.encode(self) } catch { throw .unwritable(path: path, why: "\(error)") }
    try PrivateFiles.write(bytes, to: path, mode: PrivateFiles.privateMode)
  }

  /// Forgets what can no longer matter.
  mutating func sweep(at now: Int64) {
    certificates.removeAll { $0.notAfter + Ledger.certificateMemorySeconds < now }
    tokens.removeAll { ($0.usedAt ?? $0.expires) + Ledger.tokenMemorySeconds < now }
  }

  mutating func add(_ certificate: NodeCertificate, _ name: NodeName) throws(CertificateError) {
    guard certificates.count < Ledger.maximumCertificates else { throw .tooMany(what: "certificates", limit: Ledger.maximumCertificates) }
    certificates.append(
      IssuedCertificate(
        serial: certificate.serial, name: name.description, notBefore: certificate.notBefore.wholeSeconds,
        notAfter: certificate.notAfter.wholeSeconds))
  }

  mutating func add(_ token: EnrolmentToken, expires: Int64) throws(CertificateError) {
    guard tokens.count < Ledger.maximumTokens else { throw .tooMany(what: "enrolment tokens", limit: Ledger.maximumTokens) }
    tokens.append(
      IssuedToken(
        hash: hexadecimal(EnrolmentToken.hash(ofSecret: token.secret)), role: token.role, name: token.name?.name, expires: expires,
        usedAt: nil))
  }

  /// Strikes the token off, if it is good for a certificate of this name.
  mutating func redeem(secret: [UInt8], for asked: NodeName, at now: Int64) throws(CertificateError) {
    let hash = hexadecimal(EnrolmentToken.hash(ofSecret: secret))
    guard let index = tokens.firstIndex(where: { $0.hash == hash }) else { throw .token(.unknown) }
    let token = tokens[index]
    if let usedAt = token.usedAt { throw .token(.used(on: Date(wholeSeconds: usedAt))) }
    if now > token.expires { throw .token(.expired(on: Date(wholeSeconds: token.expires))) }
    if token.role != asked.role { throw .token(.otherRole(token.role, asked: asked)) }
    if let text = token.name, let name = NodeName(role: token.role, name: text), name != asked {
      throw .token(.otherName(name, asked: asked))
    }
    // Or who holds an open token could become any node of the role.
    let isTaken = certificates.contains { $0.name == asked.description && $0.revokedAt == nil && $0.notAfter >= now }
    if token.name == nil, isTaken { throw .token(.nameTaken(asked)) }
    tokens[index].usedAt = now
  }

  /// Revokes every living certificate of a name or a serial number; returns how many were not revoked before.
  mutating func revoke(_ what: String, at now: Int64) throws(CertificateError) -> Int {
    var count = 0
    var isKnown = false
    for index in certificates.indices where certificates[index].name == what || certificates[index].serial == what.lowercased() {
      guard certificates[index].notAfter >= now else { continue }
      isKnown = true
      if certificates[index].revokedAt == nil {
        certificates[index].revokedAt = now
        count += 1
      }
    }
    guard isKnown else { throw .unknownCertificate(what) }
    return count
  }

  var revoked: [RevocationList.Entry] {
    certificates.compactMap { certificate in
      certificate.revokedAt.map { RevocationList.Entry(serial: certificate.serial, date: Date(wholeSeconds: $0)) }
    }
  }
}

extension Date {
  init(wholeSeconds: Int64) { self.init(timeIntervalSince1970: Double(wholeSeconds)) }
  var wholeSeconds: Int64 { Int64(timeIntervalSince1970.rounded(.down)) }
}
