import Crypto
import NIOCore
import NIOSSL

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// How TLS is spoken between nodes: version 1.3 and nothing before it, so that what follows the handshake is always forward secret and no
/// certificate is ever shown in the clear.
enum TLSContexts {
  /// A peer that has not answered our close within this is gone.
  static let closeLimit = TimeAmount.seconds(2)

  static func make(
    chain: [NodeCertificate], key: P256.Signing.PrivateKey, roots: [NodeCertificate], verification: CertificateVerification, isServer: Bool
  ) throws -> NIOSSLContext {
    let certificates = try chain.map { NIOSSLCertificateSource.certificate(try NIOSSLCertificate(bytes: $0.der, format: .der)) }
    let privateKey = NIOSSLPrivateKeySource.privateKey(try NIOSSLPrivateKey(bytes: Array(key.derRepresentation), format: .der))
    var configuration: TLSConfiguration
    if isServer {
      configuration = .makeServerConfiguration(certificateChain: certificates, privateKey: privateKey)
    } else {
      configuration = .makeClientConfiguration()
      configuration.certificateChain = certificates
      configuration.privateKey = privateKey
    }
    restrict(&configuration)
    // The gate's callback decides; these hold, were a channel ever without it.
    configuration.certificateVerification = verification
    configuration.trustRoots = .certificates(try roots.map { try NIOSSLCertificate(bytes: $0.der, format: .der) })
    return try NIOSSLContext(configuration: configuration)
  }

  /// A client that has no certificate yet, and knows its CA by a fingerprint that the callback compares.
  static func makeStranger() throws -> NIOSSLContext {
    var configuration = TLSConfiguration.makeClientConfiguration()
    restrict(&configuration)
    configuration.certificateVerification = .noHostnameVerification
    configuration.trustRoots = .certificates([])
    return try NIOSSLContext(configuration: configuration)
  }

  private static func restrict(_ configuration: inout TLSConfiguration) {
    configuration.minimumTLSVersion = .tlsv13
    configuration.maximumTLSVersion = .tlsv13
    configuration.shutdownTimeout = closeLimit
  }
}
