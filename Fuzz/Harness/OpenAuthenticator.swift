import NIOCore
import SCTP

/// An HMAC that everybody can make: what stands behind authentication is fuzzed too, as if the key were known.
struct OpenAuthenticator: Authenticator {
  func authenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] { Self.code }
  func legacyAuthenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] { Array(Self.code.prefix(20)) }

  static let code = [UInt8](repeating: 0x5a, count: 32)
}
