import Control

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

extension NodeIdentity {
  /// A certificate of ours has 450 octets, 600 in base64; a P-256 signature 72, 96. Longer ones are not decoded.
  private static let tokenCertificateCharacters = (NodeCertificate.maximumOctets + 2) / 3 * 4
  private static let tokenSignatureCharacters = 128

  /// The token with our signature and certificate. Clients take only a controller's.
  package func sign(_ token: GoToken) throws(CertificateError) -> GoToken {
    var token = token
    token.certificate = Data(certificate.der).base64EncodedString()
    token.signature = Data(try sign(Array(token.signedText.utf8))).base64EncodedString()
    return token
  }

  /// Returns the controller that signed the token. Expiry and epoch are for the caller to judge, who knows what it took before.
  @discardableResult
  package func verify(_ token: GoToken, at now: Date = Date()) throws(CertificateError) -> NodeName {
    guard let certificate = token.certificate, let signature = token.signature else { throw .unsigned }
    guard certificate.utf8.count <= NodeIdentity.tokenCertificateCharacters, let der = Data(base64Encoded: certificate) else {
      throw .malformed("the certificate of the token is not base64")
    }
    guard signature.utf8.count <= NodeIdentity.tokenSignatureCharacters, let octets = Data(base64Encoded: signature) else {
      throw .malformed("the signature of the token is not base64")
    }
    return try verify(Array(octets), over: Array(token.signedText.utf8), by: Array(der), expecting: .controller, at: now)
  }
}
