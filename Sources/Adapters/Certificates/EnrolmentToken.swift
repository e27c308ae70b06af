import Crypto

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// What a new node is handed by a person: a secret that the CA gives a certificate for, once; the fingerprint by which the node knows that CA before it
/// sends the secret anywhere; and the name that it is for. `longhaul-token-1.SECRET.FINGERPRINT.ROLE.NAME`, the first two in base64url.
package struct EnrolmentToken: Sendable, Hashable, CustomStringConvertible {
  private static let prefix = "longhaul-token-1"
  /// 192 bits: no one guesses it, and base64 needs no padding.
  static let secretOctets = 24
  private static let fingerprintOctets = SHA256.byteCount
  /// 16 + 1 + 32 + 1 + 43 + 1 + 11 + 1 + 63 characters.
  package static let maximumCharacters = 169

  package let secret: [UInt8]
  /// SHA-256 over the CA certificate's DER.
  package let fingerprint: [UInt8]
  package let role: CertificateRole
  /// Nil if the node may choose; then the token ends with its fourth dot. What the CA wrote down counts, not what the token says.
  package let name: NodeName?

  init(fingerprint: [UInt8], role: CertificateRole, name: NodeName?) {
    secret = SymmetricKey(size: SymmetricKeySize(bitCount: EnrolmentToken.secretOctets * 8)).withUnsafeBytes { Array($0) }
    self.fingerprint = fingerprint
    self.role = role
    self.name = name
  }

  package init(_ text: String) throws(CertificateError) {
    guard text.utf8.count <= EnrolmentToken.maximumCharacters else { throw .token(.malformed) }
    // A name may have dots of its own.
    let parts = text.split(separator: ".", maxSplits: 4, omittingEmptySubsequences: false)
    guard parts.count == 5, parts[0] == EnrolmentToken.prefix, let secret = base64URLOctets(parts[1]),
      secret.count == EnrolmentToken.secretOctets, let fingerprint = base64URLOctets(parts[2]),
      fingerprint.count == EnrolmentToken.fingerprintOctets, let role = CertificateRole(rawValue: String(parts[3]))
    else { throw .token(.malformed) }
    name = NodeName(role: role, name: parts[4])
    guard name != nil || parts[4].isEmpty else { throw .token(.malformed) }
    self.secret = secret
    self.fingerprint = fingerprint
    self.role = role
  }

  /// What the CA keeps in its place, and what the node sends stands for.
  static func hash(ofSecret secret: [UInt8]) -> [UInt8] { Array(SHA256.hash(data: Array("longhaul token 1".utf8) + secret)) }

  package var description: String {
    "\(EnrolmentToken.prefix).\(base64URL(secret)).\(base64URL(fingerprint)).\(role.rawValue).\(name?.name ?? "")"
  }
}

/// RFC 4648 section 5, without padding.
private func base64URL(_ octets: [UInt8]) -> String {
  Data(octets).base64EncodedString().replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
}

/// Nil unless it is base64url without padding, of the one spelling that the octets have.
private func base64URLOctets(_ text: Substring) -> [UInt8]? {
  let isAlphabet = text.utf8.allSatisfy { octet in
    (48...57).contains(octet) || (65...90).contains(octet) || (97...122).contains(octet) || octet == 45 || octet == 95
  }
  guard isAlphabet else { return nil }
  let padding = String(repeating: "=", count: (4 - text.utf8.count % 4) % 4)
  guard let data = Data(base64Encoded: text.replacing("-", with: "+").replacing("_", with: "/") + padding) else { return nil }
  let octets = Array(data)
  return base64URL(octets) == text ? octets : nil
}
