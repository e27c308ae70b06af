import Crypto
import SwiftASN1
import Vocabulary
import X509

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// A certificate and its octets. Reading one says nothing of whether to believe it: that is `TrustStore`'s.
package struct NodeCertificate: Sendable, Hashable {
  /// Ours have about 450 octets; 4 KiB is beyond any P-256 certificate that a CA would make for a node.
  package static let maximumOctets = 4 << 10
  static let pemLabel = "CERTIFICATE"

  package let der: [UInt8]
  let x509: Certificate

  package init(der: [UInt8]) throws(CertificateError) {
    guard der.count <= NodeCertificate.maximumOctets else { throw .malformed("more than \(NodeCertificate.maximumOctets) octets") }
    do { x509 = try Certificate(derEncoded: der) } catch { throw .malformed("not the DER of an X.509 certificate") }
    self.der = der
  }

  init(_ x509: Certificate) throws(CertificateError) {
    var serializer = DER.Serializer()
    do { try serializer.serialize(x509) } catch { throw .malformed("cannot be written as DER") }
    self.x509 = x509
    der = serializer.serializedBytes
  }

  /// All certificates of a PEM file, in its order.
  package static func all(contentsOf path: String) throws(CertificateError) -> [NodeCertificate] {
    let text = try PrivateFiles.readText(path)
    do throws(CertificateError) {
      let certificates = try all(pem: text)
      guard !certificates.isEmpty else { throw .malformed("no certificate in PEM") }
      return certificates
    } catch {
      throw .content(path: path, why: "\(error)")
    }
  }

  package static func all(pem text: String) throws(CertificateError) -> [NodeCertificate] {
    guard let documents = try? PEMDocument.parseMultiple(pemString: text) else { throw .malformed("not PEM") }
    var certificates: [NodeCertificate] = []
    for document in documents where document.discriminator == pemLabel {
      certificates.append(try NodeCertificate(der: document.derBytes))
    }
    return certificates
  }

  package var pem: String { PEMDocument(type: NodeCertificate.pemLabel, derBytes: der).pemString + "\n" }

  /// In hexadecimal digits, as `openssl x509 -serial` prints it, in small letters.
  package var serial: String { hexadecimal(x509.serialNumber.bytes) }
  package var notBefore: Date { x509.notValidBefore }
  package var notAfter: Date { x509.notValidAfter }
  package var subject: String { "\(x509.subject)" }
  package var issuer: String { "\(x509.issuer)" }
  /// SHA-256 over the DER, as `openssl x509 -fingerprint -sha256` prints it, in small letters and without colons.
  package var fingerprint: String { hexadecimal(fingerprintOctets) }
  package var fingerprintOctets: [UInt8] { Array(SHA256.hash(data: der)) }
  var publicKey: P256.Signing.PublicKey? { P256.Signing.PublicKey(x509.publicKey) }

  /// The name that it claims; nil if it has none, or several, or a malformed one.
  package var name: NodeName? {
    guard let names = try? x509.extensions.subjectAlternativeNames else { return nil }
    let uris = names.compactMap { name -> String? in
      if case .uniformResourceIdentifier(let uri) = name, NodeName.isOurs(uri: uri) { return uri }
      return nil
    }
    return uris.count == 1 ? uris.first.flatMap { NodeName(uri: $0) } : nil
  }

  /// How errors call it. A subject comes from the peer: one line of it, and not a long one.
  var label: String {
    name?.description
      ?? "\"\(String(String.UnicodeScalarView(subject.unicodeScalars.filter { $0.value >= 32 && $0.value < 127 }).prefix(80)))\""
  }
}
