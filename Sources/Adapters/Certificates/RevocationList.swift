import Crypto
import SwiftASN1
import X509

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// What a CA has revoked: an X.509 v2 certificate revocation list (RFC 5280 section 5), written and read with swift-asn1, signed and verified with
/// swift-crypto. `openssl crl -in revoked.pem -text` shows it.
package struct RevocationList: Sendable, Hashable {
  package struct Entry: Sendable, Hashable {
    package var serial: String
    package var date: Date

    package init(serial: String, date: Date) {
      self.serial = serial
      self.date = date
    }
  }

  /// Expired certificates leave the list; 1,000 living revocations are an installation in trouble. 38 octets each, so 38 KiB, 52 in PEM.
  package static let maximumEntries = 1_000
  /// The list promises a successor within so long. An older one is still believed, for it only ever grows while a certificate lives.
  package static let lifetimeSeconds = 30.0 * 86_400
  static let maximumOctets = 48 << 10
  static let pemLabel = "X509 CRL"

  package let der: [UInt8]
  /// Grows with each list (the CRL number of section 5.2.3): a node keeps the greatest that it has seen.
  package let number: UInt64
  package let issued: Date
  package let nextUpdate: Date
  package let entries: [Entry]
  let issuer: DistinguishedName
  private let signedOctets: ArraySlice<UInt8>
  private let signature: ArraySlice<UInt8>
  private let dates: [String: Date]

  package func revocationDate(of certificate: NodeCertificate) -> Date? {
    certificate.x509.issuer == issuer ? dates[certificate.serial] : nil
  }

  func isSigned(by root: NodeCertificate) -> Bool {
    guard root.x509.subject == issuer, let key = root.publicKey else { return false }
    guard let signature = try? P256.Signing.ECDSASignature(derRepresentation: signature) else { return false }
    return key.isValidSignature(signature, for: signedOctets)
  }

  package var pem: String { PEMDocument(type: RevocationList.pemLabel, derBytes: der).pemString + "\n" }

  package init(contentsOf path: String) throws(CertificateError) {
    let text = try PrivateFiles.readText(path)
    do throws(CertificateError) { try self.init(pem: text) } catch { throw .content(path: path, why: "\(error)") }
  }

  package init(pem text: String) throws(CertificateError) {
    guard let document = try? PEMDocument(pemString: text), document.discriminator == RevocationList.pemLabel else {
      throw .malformed("not a revocation list in PEM")
    }
    try self.init(der: document.derBytes)
  }

  package init(der: [UInt8]) throws(CertificateError) {
    guard der.count <= RevocationList.maximumOctets else {
      throw .malformed("a revocation list of more than \(RevocationList.maximumOctets) octets")
    }
    let list: SignedList
    do { list = try SignedList(derEncoded: der) } catch { throw .malformed("not the DER of a revocation list") }
    guard list.content.entries.count <= RevocationList.maximumEntries else {
      throw .malformed("a revocation list of more than \(RevocationList.maximumEntries) entries")
    }
    self.der = der
    number = list.content.number
    issued = list.content.issued
    nextUpdate = list.content.nextUpdate
    entries = list.content.entries
    issuer = list.content.issuer
    signedOctets = list.contentOctets
    signature = list.signature
    dates = Dictionary(entries.map { ($0.serial, $0.date) }, uniquingKeysWith: min)
  }

  /// A new list, signed by the CA.
  init(
    number: UInt64, entries: [Entry], issued: Date, authority: NodeCertificate, key: P256.Signing.PrivateKey
  ) throws(CertificateError) {
    let content = ListContent(
      issuer: authority.x509.subject, issued: issued, nextUpdate: issued.addingTimeInterval(RevocationList.lifetimeSeconds),
      entries: entries, keyIdentifier: authority.keyIdentifier, number: number)
    var octets = DER.Serializer()
    do {
      try octets.serialize(content)
      let signature = try key.signature(for: octets.serializedBytes)
      var whole = DER.Serializer()
      try whole.appendConstructedNode(identifier: .sequence) { coder in
        coder.serializeRawBytes(octets.serializedBytes)
        try ListContent.serializeAlgorithm(into: &coder)
        try coder.serialize(ASN1BitString(bytes: Array(signature.derRepresentation)[...]))
      }
      try self.init(der: whole.serializedBytes)
    } catch let error as CertificateError {
      throw error
    } catch {
      throw .malformed("a revocation list that cannot be written: \(error)")
    }
  }
}

extension NodeCertificate {
  var keyIdentifier: [UInt8] { ((try? x509.extensions.subjectKeyIdentifier)?.keyIdentifier).map { Array($0) } ?? [] }
}
