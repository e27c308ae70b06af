import X509

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Whom we expect at the other end.
package struct PeerExpectation: Sendable, Hashable {
  package var roles: Set<CertificateRole>
  /// Nil if any node of the roles will do.
  package var name: String?

  package init(_ roles: Set<CertificateRole>, name: String? = nil) {
    self.roles = roles
    self.name = name
  }

  package static func agent(_ machine: String?) -> PeerExpectation { PeerExpectation([.agent], name: machine) }
  package static let client = PeerExpectation([.client])
  package static let accelerator = PeerExpectation([.accelerator])
  package static let controller = PeerExpectation([.controller])
  package static let authority = PeerExpectation([.authority])
  /// Whoever has a certificate, but for the CA's own endpoint, which comes to no one.
  package static let anyNode = PeerExpectation(Set(CertificateRole.allCases).subtracting([.authority]))
}

/// A certificate that has been believed.
package struct VerifiedPeer: Sendable, Hashable {
  package let name: NodeName
  package let certificate: NodeCertificate
  /// The CA that signed it.
  package let authority: NodeCertificate
}

/// The CAs that a node believes, and what they have revoked: the one place that decides whether a certificate is good.
///
/// The chain has two links: a CA signs nodes and nothing between (docs/decisions/0010). So RFC 5280 section 6.1 comes down to the steps of `verify`,
/// in the order in which a refusal helps most; before the signature nothing else that the certificate says is believed.
package struct TrustStore: Sendable {
  /// The present CA, the next one, and one to spare.
  package static let maximumRoots = 8

  let roots: [NodeCertificate]
  package let revocations: RevocationList?

  package init(roots: [NodeCertificate], revocations: RevocationList? = nil) throws(CertificateError) {
    guard !roots.isEmpty else { throw .malformed("no CA certificate") }
    guard roots.count <= TrustStore.maximumRoots else { throw .tooMany(what: "certificates in ca.pem", limit: TrustStore.maximumRoots) }
    for root in roots where !root.isAuthority { throw .unsuitable(peer: root.label, why: "it is not that of a CA") }
    if let revocations, !roots.contains(where: revocations.isSigned(by:)) { throw .badSignature(peer: "the CA in ca.pem") }
    self.roots = roots
    self.revocations = revocations
  }

  package func signed(_ list: RevocationList) -> Bool { roots.contains(where: list.isSigned(by:)) }

  package func verify(_ der: [UInt8], expecting expectation: PeerExpectation, at now: Date) throws(CertificateError) -> VerifiedPeer {
    try verify(try NodeCertificate(der: der), expecting: expectation, at: now)
  }

  package func verify(
    _ certificate: NodeCertificate, expecting expectation: PeerExpectation, at now: Date
  ) throws(CertificateError) -> VerifiedPeer {
    guard let root = roots.first(where: { certificate.isSigned(by: $0) }) else { throw .otherAuthority(peer: certificate.label) }
    if now > root.notAfter { throw .authorityExpired(on: root.notAfter) }
    // Before its beginning the CA cannot have signed anything: a clock is wrong, and the certificate's own dates say it better.
    if now < certificate.notBefore { throw .notYetValid(peer: certificate.label, from: certificate.notBefore) }
    if now > certificate.notAfter { throw .expired(peer: certificate.label, on: certificate.notAfter) }
    if let why = certificate.whyNotNode { throw .unsuitable(peer: certificate.label, why: why) }
    if let date = revocations?.revocationDate(of: certificate) { throw .revoked(peer: certificate.label, on: date) }
    guard let name = certificate.name else { throw .noName(peer: certificate.label) }
    guard expectation.roles.contains(name.role) else { throw .wrongRole(name, expected: expectation.roles.sorted()) }
    if let expected = expectation.name, expected != name.name { throw .wrongName(name, expected: expected) }
    return VerifiedPeer(name: name, certificate: certificate, authority: root)
  }
}

extension NodeCertificate {
  func isSigned(by root: NodeCertificate) -> Bool {
    x509.issuer == root.x509.subject && x509.signatureAlgorithm == .ecdsaWithSHA256
      && root.x509.publicKey.isValidSignature(x509.signature, for: x509)
  }

  var isAuthority: Bool {
    guard case .isCertificateAuthority? = try? x509.extensions.basicConstraints, publicKey != nil else { return false }
    guard let usage = try? x509.extensions.keyUsage else { return false }
    return usage.keyCertSign && usage.cRLSign
  }

  /// What keeps it from being a node's certificate, in words; nil if nothing does.
  var whyNotNode: String? {
    // An extension that we do not know and must not pass over (RFC 5280 section 4.2).
    let known: Set<String> = ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37"]
    if let unknown = x509.extensions.first(where: { $0.critical && !known.contains("\($0.oid)") }) {
      return "the extension \(unknown.oid) is critical and unknown"
    }
    guard publicKey != nil else { return "its key is not ECDSA on P-256" }
    if case .isCertificateAuthority? = try? x509.extensions.basicConstraints { return "it is that of a CA" }
    guard let usage = try? x509.extensions.keyUsage, usage.digitalSignature else { return "its key is not for signatures" }
    guard let purposes = try? x509.extensions.extendedKeyUsage, purposes.contains(.clientAuth), purposes.contains(.serverAuth) else {
      return "it is not for both ends of TLS"
    }
    return nil
  }
}
