import Crypto
import SwiftASN1
import Vocabulary
import X509

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The CA of an installation: a folder with its certificate, its key, the ledger of what it gave out, and the list of what it took back.
package struct Authority: Sendable {
  package enum File {
    package static let certificate = "ca.pem"
    package static let key = "ca.key"
    package static let ledger = "ledger.json"
    package static let revocations = "revoked.pem"
    static let lock = "lock"
  }

  package static let authorityLifetimeSeconds = 3_652.0 * 86_400  // 10 years
  package static let nodeLifetimeSeconds = 90.0 * 86_400
  /// A certificate that outlives a year is forgotten by people, not by attackers; revocations stay in the list for as long.
  package static let maximumNodeLifetimeSeconds = 397.0 * 86_400
  package static let tokenLifetimeSeconds = 30.0 * 60
  package static let maximumTokenLifetimeSeconds = 7.0 * 86_400
  /// Clocks of nodes lag: a certificate is valid from five minutes before it was made.
  private static let clockAllowanceSeconds = 300.0

  package let directory: String
  package let certificate: NodeCertificate
  let key: P256.Signing.PrivateKey

  private var ledgerPath: String { "\(directory)/\(File.ledger)" }

  /// Makes a new CA. Replaces one that is there only if told to: with it go all the certificates that it signed.
  @discardableResult
  package static func create(
    _ directory: String, commonName: String = "Longhaul CA", overwrite: Bool = false, at now: Date = Date()
  ) throws(CertificateError) -> Authority {
    try PrivateFiles.makeFolder(directory)
    return try PrivateFiles.locked("\(directory)/\(File.lock)") { () throws(CertificateError) in
      if !overwrite {
        for file in [File.key, File.certificate, File.ledger] where PrivateFiles.exists("\(directory)/\(file)") {
          throw .exists(path: "\(directory)/\(file)")
        }
      }
      let key = P256.Signing.PrivateKey()
      let certificate = try makeRoot(commonName: commonName, key: key, at: now)
      try PrivateFiles.write((key.pemRepresentation + "\n").utf8, to: "\(directory)/\(File.key)", mode: PrivateFiles.privateMode)
      try PrivateFiles.write(certificate.pem.utf8, to: "\(directory)/\(File.certificate)", mode: PrivateFiles.publicMode)
      let authority = Authority(directory: directory, certificate: certificate, key: key)
      var ledger = Ledger()
      try authority.publishRevocations(&ledger, at: now)
      try ledger.write(to: authority.ledgerPath)
      return authority
    }
  }

  package init(_ directory: String) throws(CertificateError) {
    let key = try PrivateFiles.readKey("\(directory)/\(File.key)")
    let path = "\(directory)/\(File.certificate)"
    guard let certificate = try NodeCertificate.all(contentsOf: path).first else { throw .noCertificate }
    guard certificate.isAuthority else { throw .content(path: path, why: "not the certificate of a CA") }
    guard certificate.publicKey?.rawRepresentation == key.publicKey.rawRepresentation else {
      throw .otherKey(key: "\(directory)/\(File.key)", certificate: path)
    }
    self.init(directory: directory, certificate: certificate, key: key)
  }

  private init(directory: String, certificate: NodeCertificate, key: P256.Signing.PrivateKey) {
    self.directory = directory
    self.certificate = certificate
    self.key = key
  }

  // MARK: Certificates

  /// A certificate for a key that the node made: on an operator's word, with no token.
  package func issue(
    _ request: SigningRequest, lifetimeSeconds: Double = nodeLifetimeSeconds, at now: Date = Date()
  ) throws(CertificateError) -> NodeCertificate {
    try changeLedger(at: now) { ledger throws(CertificateError) in
      try give(request, lifetimeSeconds: lifetimeSeconds, at: now, &ledger)
    }
  }

  /// A certificate for a token that has not been used.
  package func redeem(
    secret: [UInt8], _ request: SigningRequest, lifetimeSeconds: Double = nodeLifetimeSeconds, at now: Date = Date()
  ) throws(CertificateError) -> NodeCertificate {
    try changeLedger(at: now) { ledger throws(CertificateError) in
      try ledger.redeem(secret: secret, for: request.name, at: now.wholeSeconds)
      return try give(request, lifetimeSeconds: lifetimeSeconds, at: now, &ledger)
    }
  }

  /// A new certificate of the same name, for a new key, to who has shown the old one. The old one goes on until it expires.
  package func renew(
    _ old: VerifiedPeer, _ request: SigningRequest, lifetimeSeconds: Double = nodeLifetimeSeconds, at now: Date = Date()
  ) throws(CertificateError) -> NodeCertificate {
    try changeLedger(at: now) { ledger throws(CertificateError) in
      guard request.name == old.name else {
        throw .request("the certificate shown is that of \(old.name), and \(request.name) was asked for")
      }
      guard let entry = ledger.certificates.first(where: { $0.serial == old.certificate.serial }) else {
        throw .unknownCertificate(old.name.description)
      }
      if let date = entry.revokedAt { throw .revoked(peer: old.name.description, on: Date(wholeSeconds: date)) }
      return try give(request, lifetimeSeconds: lifetimeSeconds, at: now, &ledger)
    }
  }

  private func give(
    _ request: SigningRequest, lifetimeSeconds: Double, at now: Date, _ ledger: inout Ledger
  ) throws(CertificateError) -> NodeCertificate {
    guard request.name.role != .authority else {
      throw .request("no node is an authority; `longhaul pki serve` makes that certificate for itself")
    }
    guard lifetimeSeconds > 0, lifetimeSeconds <= Authority.maximumNodeLifetimeSeconds else {
      throw .request("a node's certificate lives from 1 to \(Int(Authority.maximumNodeLifetimeSeconds / 86_400)) days")
    }
    let certificate = try makeLeaf(request.name, request.publicKey, lifetimeSeconds: lifetimeSeconds, at: now)
    try ledger.add(certificate, request.name)
    return certificate
  }

  // MARK: Tokens

  package func makeToken(
    role: CertificateRole, name: String?, lifetimeSeconds: Double = tokenLifetimeSeconds, at now: Date = Date()
  ) throws(CertificateError) -> EnrolmentToken {
    guard role != .authority else { throw .request("no node is an authority") }
    let nodeName = name.flatMap { NodeName(role: role, name: $0) }
    if let name, nodeName == nil { throw .badName(name) }
    guard lifetimeSeconds > 0, lifetimeSeconds <= Authority.maximumTokenLifetimeSeconds else {
      throw .request("a token lives from 1 to \(Int(Authority.maximumTokenLifetimeSeconds / 60)) minutes")
    }
    let token = EnrolmentToken(fingerprint: certificate.fingerprintOctets, role: role, name: nodeName)
    try changeLedger(at: now) { ledger throws(CertificateError) in
      try ledger.add(token, expires: now.addingTimeInterval(lifetimeSeconds).wholeSeconds)
    }
    return token
  }

  /// Who the enrolment endpoint is: a certificate for a key that lives in its memory alone, and not in the ledger, since it is shown by no one else.
  /// Revocations are the ledger's to judge, request by request.
  package func endpointIdentity(at now: Date = Date()) throws(CertificateError) -> NodeIdentity {
    guard let name = NodeName(role: .authority, name: "enrolment") else { throw .request("no name for the endpoint") }
    let key = P256.Signing.PrivateKey()
    let leaf = try makeLeaf(name, key.publicKey, lifetimeSeconds: Authority.nodeLifetimeSeconds, at: now)
    return try NodeIdentity(certificate: leaf, key: key, trust: try TrustStore(roots: [certificate]), isAnyoneWelcome: true)
  }

  // MARK: Revocations

  /// Takes back every living certificate of `agent/vm1`, or the one of a serial number; returns how many were not revoked before.
  @discardableResult
  package func revoke(_ what: String, at now: Date = Date()) throws(CertificateError) -> Int {
    try changeLedger(at: now) { ledger throws(CertificateError) in
      let count = try ledger.revoke(what, at: now.wholeSeconds)
      if count > 0 { try publishRevocations(&ledger, at: now) }
      return count
    }
  }

  /// The list as it was published last; a new one if that is past the half of its life.
  package func revocations(at now: Date = Date()) throws(CertificateError) -> RevocationList {
    let list = try RevocationList(contentsOf: "\(directory)/\(File.revocations)")
    if now.timeIntervalSince(list.issued) < RevocationList.lifetimeSeconds / 2 { return list }
    return try changeLedger(at: now) { ledger throws(CertificateError) in try publishRevocations(&ledger, at: now) }
  }

  @discardableResult
  private func publishRevocations(_ ledger: inout Ledger, at now: Date) throws(CertificateError) -> RevocationList {
    let entries = ledger.revoked
    guard entries.count <= RevocationList.maximumEntries else { throw .tooMany(what: "revocations", limit: RevocationList.maximumEntries) }
    ledger.listNumber += 1
    let list = try RevocationList(number: ledger.listNumber, entries: entries, issued: now, authority: certificate, key: key)
    // Before the ledger: after a crash between the two the number is used again, for a list that revokes the same.
    try PrivateFiles.write(list.pem.utf8, to: "\(directory)/\(File.revocations)", mode: PrivateFiles.publicMode)
    return list
  }

  // MARK: The ledger

  package struct Issued: Sendable, Hashable {
    package let serial: String
    package let name: String
    package let notAfter: Date
    package let revoked: Date?
  }

  package func issued() throws(CertificateError) -> [Issued] {
    try Ledger(contentsOf: ledgerPath).certificates.map { entry in
      Issued(
        serial: entry.serial, name: entry.name, notAfter: Date(wholeSeconds: entry.notAfter),
        revoked: entry.revokedAt.map { Date(wholeSeconds: $0) })
    }
  }

  /// Reads, changes and replaces the ledger while no other process does; it stays as it was if `change` throws.
  private func changeLedger<Result>(
    at now: Date, _ change: (inout Ledger) throws(CertificateError) -> Result
  ) throws(CertificateError) -> Result {
    try PrivateFiles.locked("\(directory)/\(File.lock)") { () throws(CertificateError) in
      var ledger = try Ledger(contentsOf: ledgerPath)
      ledger.sweep(at: now.wholeSeconds)
      let result = try change(&ledger)
      try ledger.write(to: ledgerPath)
      return result
    }
  }
}

extension Authority {
  private static func makeRoot(commonName: String, key: P256.Signing.PrivateKey, at now: Date) throws(CertificateError) -> NodeCertificate {
    do {
      // The fingerprint of the key in the name: two CAs made with the same words are still two (a list and a chain are matched by name).
      let publicKey = Certificate.PublicKey(key.publicKey)
      let identifier = SubjectKeyIdentifier(hash: publicKey)
      let name = try DistinguishedName { CommonName("\(commonName) \(hexadecimal(identifier.keyIdentifier.prefix(4)))") }
      return try NodeCertificate(
        Certificate(
          version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: publicKey,
          notValidBefore: now.addingTimeInterval(-clockAllowanceSeconds), notValidAfter: now.addingTimeInterval(authorityLifetimeSeconds),
          issuer: name, subject: name, signatureAlgorithm: .ecdsaWithSHA256,
          extensions: try Certificate.Extensions {
            // No CA below this one (RFC 5280 section 4.2.1.9).
            Critical(BasicConstraints.isCertificateAuthority(maxPathLength: 0))
            Critical(KeyUsage(keyCertSign: true, cRLSign: true))
            identifier
          },
          issuerPrivateKey: Certificate.PrivateKey(key)))
    } catch let error as CertificateError {
      throw error
    } catch {
      throw .request("the certificate of the CA cannot be made: \(error)")
    }
  }

  /// A node's certificate, or the enrolment endpoint's own. It never outlives the CA.
  func makeLeaf(
    _ name: NodeName, _ publicKey: P256.Signing.PublicKey, lifetimeSeconds: Double, at now: Date
  ) throws(CertificateError) -> NodeCertificate {
    if now > certificate.notAfter { throw .authorityExpired(on: certificate.notAfter) }
    do {
      let key = Certificate.PublicKey(publicKey)
      return try NodeCertificate(
        Certificate(
          version: .v3, serialNumber: Certificate.SerialNumber(), publicKey: key,
          notValidBefore: now.addingTimeInterval(-Authority.clockAllowanceSeconds),
          notValidAfter: min(now.addingTimeInterval(lifetimeSeconds), certificate.notAfter), issuer: certificate.x509.subject,
          subject: try DistinguishedName { CommonName(name.description) }, signatureAlgorithm: .ecdsaWithSHA256,
          extensions: try Certificate.Extensions {
            Critical(BasicConstraints.notCertificateAuthority)
            Critical(KeyUsage(digitalSignature: true))
            try ExtendedKeyUsage([.serverAuth, .clientAuth])
            SubjectAlternativeNames([.uniformResourceIdentifier(name.uri)])
            SubjectKeyIdentifier(hash: key)
            AuthorityKeyIdentifier(keyIdentifier: certificate.keyIdentifier[...])
          },
          issuerPrivateKey: Certificate.PrivateKey(self.key)))
    } catch let error as CertificateError {
      throw error
    } catch {
      throw .request("the certificate of \(name) cannot be made: \(error)")
    }
  }
}
