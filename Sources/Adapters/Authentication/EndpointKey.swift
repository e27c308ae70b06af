import Control
import Crypto
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The key that all nodes of an installation share.
package struct EndpointKey: Sendable {
  /// 16 octets: the least that RFC 4868 section 2.1.1 would still call a key for HMAC with half its output.
  package static let minimumOctets = 16
  /// A line of 4,096 digits is no key that anybody meant.
  package static let maximumOctets = 2_048

  /// The key of SCTP AUTH (RFC 4895 endpoint pair shared key).
  package let associationKey: [UInt8]
  /// The controller's API takes it in `Authorization: Bearer`.
  package let bearerToken: String
  private let goKey: SymmetricKey
  private let tunnelKey: SymmetricKey

  package init(octets: [UInt8]) {
    precondition(octets.count >= EndpointKey.minimumOctets)
    let root = SymmetricKey(data: octets)
    func derive(_ label: String) -> SymmetricKey {
      HKDF<SHA256>.deriveKey(inputKeyMaterial: root, info: Array("longhaul 1 \(label)".utf8), outputByteCount: 32)
    }
    associationKey = derive("sctp auth").withUnsafeBytes { Array($0) }
    bearerToken = derive("controller api").withUnsafeBytes { hexadecimal($0) }
    goKey = derive("go")
    tunnelKey = derive("tunnel")
  }

  /// Reads a key file: hexadecimal digits, white space ignored at the end.
  package init(contentsOf path: String) throws(EndpointKeyError) {
    guard let bytes = try? Data(contentsOf: URL(fileURLWithPath: path)) else { throw .unreadable(path: path) }
    guard var text = String(bytes: bytes, encoding: .utf8) else { throw .notHexadecimal(path: path) }
    while text.last?.isWhitespace == true { text.removeLast() }
    guard text.utf8.count >= 2 * EndpointKey.minimumOctets else { throw .tooShort(path: path) }
    guard text.utf8.count <= 2 * EndpointKey.maximumOctets, let octets = octets(ofHexadecimal: text) else {
      throw .notHexadecimal(path: path)
    }
    self.init(octets: octets)
  }

  /// A new key file's line: 32 random octets.
  package static func newLine() -> String {
    SymmetricKey(size: .bits256).withUnsafeBytes { hexadecimal($0) }
  }

  /// Octets from the system's generator, for secrets that live as long as the program.
  package static func randomOctets(_ count: Int) -> [UInt8] {
    SymmetricKey(size: SymmetricKeySize(bitCount: count * 8)).withUnsafeBytes { Array($0) }
  }

  package func sign(_ token: GoToken) -> GoToken {
    var token = token
    token.mac = hexadecimal(HMAC<SHA256>.authenticationCode(for: Array(token.signedText.utf8), using: goKey))
    return token
  }

  /// True if the token was signed with this key and nothing in it has changed. Expiry and epoch are for the caller to judge.
  package func verify(_ token: GoToken) -> Bool {
    guard let mac = octets(ofHexadecimal: token.mac), mac.count == SHA256.byteCount else { return false }
    return HMAC<SHA256>.isValidAuthenticationCode(mac, authenticating: Array(token.signedText.utf8), using: goKey)
  }

  /// What one end of a tunnel answers to the other's challenge; `transcript` is what both ends have said so far, so that a proof fits only there.
  package func tunnelProof(transcript: [UInt8]) -> [UInt8] {
    Array(HMAC<SHA256>.authenticationCode(for: transcript, using: tunnelKey))
  }

  package func verifyTunnelProof(_ proof: [UInt8], transcript: [UInt8]) -> Bool {
    HMAC<SHA256>.isValidAuthenticationCode(proof, authenticating: transcript, using: tunnelKey)
  }

  /// Compares without telling by its duration where the first difference is.
  package func isBearerToken(_ text: some StringProtocol) -> Bool {
    let given = Array(text.utf8)
    let right = Array(bearerToken.utf8)
    guard given.count == right.count else { return false }
    return zip(given, right).reduce(UInt8(0)) { $0 | ($1.0 ^ $1.1) } == 0
  }
}

/// Why a key file could not be used. Each description is a whole line for a person.
package enum EndpointKeyError: Error, CustomStringConvertible {
  case unreadable(path: String)
  case tooShort(path: String)
  case notHexadecimal(path: String)

  package var description: String {
    switch self {
    case .unreadable(let path): "key file \(path): cannot be read; make one with `longhaul keygen > \(path)` and copy it to every node"
    case .tooShort(let path):
      "key file \(path): fewer than \(2 * EndpointKey.minimumOctets) hexadecimal digits; make one with `longhaul keygen`"
    case .notHexadecimal(let path): "key file \(path): not one line of hexadecimal digits in pairs; make one with `longhaul keygen`"
    }
  }
}
