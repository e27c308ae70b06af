import Crypto
import NIOCore
import SCTP

/// HMACs for the SCTP engine (RFC 4895), by swift-crypto.
package struct CryptoAuthenticator: Authenticator {
  package init() {}

  package func authenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] {
    var code = HMAC<SHA256>(key: SymmetricKey(data: key))
    for part in parts { part.withUnsafeReadableBytes { code.update(data: $0) } }
    return Array(code.finalize())
  }

  package func legacyAuthenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] {
    var code = HMAC<Insecure.SHA1>(key: SymmetricKey(data: key))
    for part in parts { part.withUnsafeReadableBytes { code.update(data: $0) } }
    return Array(code.finalize())
  }
}
