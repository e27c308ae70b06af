import Crypto
import SwiftASN1
import X509

/// A node's request for a certificate: PKCS #10 (RFC 2986), signed with the new key, with the name asked for among the alternative names.
package struct SigningRequest: Sendable {
  /// Ours have about 350 octets.
  package static let maximumOctets = 4 << 10
  static let pemLabel = "CERTIFICATE REQUEST"

  package let name: NodeName
  let publicKey: P256.Signing.PublicKey
  package let pem: String

  /// A request for this name, and the key that was made for it.
  package static func make(for name: NodeName) throws(CertificateError) -> (SigningRequest, NodeKey) {
    let key = P256.Signing.PrivateKey()
    do {
      let extensions = try Certificate.Extensions { SubjectAlternativeNames([.uniformResourceIdentifier(name.uri)]) }
      let request = try CertificateSigningRequest(
        version: .v1, subject: try DistinguishedName { CommonName(name.description) }, privateKey: Certificate.PrivateKey(key),
        attributes: CertificateSigningRequest.Attributes([.init(ExtensionRequest(extensions: extensions))]))
      var serializer = DER.Serializer()
      try serializer.serialize(request)
      let pem = PEMDocument(type: pemLabel, derBytes: serializer.serializedBytes).pemString + "\n"
      return (try SigningRequest(pem: pem), NodeKey(key))
    } catch let error as CertificateError {
      throw error
    } catch {
      throw .request("cannot be written: \(error)")
    }
  }

  /// Reads a request and proves that who made it holds the key.
  package init(pem text: String) throws(CertificateError) {
    guard text.utf8.count <= SigningRequest.maximumOctets else { throw .request("more than \(SigningRequest.maximumOctets) octets") }
    guard let document = try? PEMDocument(pemString: text), document.discriminator == SigningRequest.pemLabel,
      let request = try? CertificateSigningRequest(derEncoded: document.derBytes)
    else { throw .request("not a PKCS #10 request in PEM") }
    guard let key = P256.Signing.PublicKey(request.publicKey) else { throw .request("its key is not ECDSA on P-256") }
    guard request.signatureAlgorithm == .ecdsaWithSHA256, request.publicKey.isValidSignature(request.signature, for: request) else {
      throw .request("not signed with its own key")
    }
    guard let names = try? request.attributes.extensionRequest?.extensions.subjectAlternativeNames, names.count == 1,
      case .uniformResourceIdentifier(let uri)? = names.first, let name = NodeName(uri: uri)
    else { throw .request("it must ask for one name of the form longhaul://ROLE/NAME") }
    self.name = name
    publicKey = key
    pem = text
  }
}

/// A node's private key: it leaves the machine that made it never, and this type only into a file.
package struct NodeKey: Sendable {
  let key: P256.Signing.PrivateKey

  init(_ key: P256.Signing.PrivateKey) { self.key = key }

  package init() { key = P256.Signing.PrivateKey() }
}
