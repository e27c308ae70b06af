import Crypto
import NIOSSL
import SwiftASN1
import X509

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Who this node is and whom it believes: its certificate, the key to it, the CA's certificate and what the CA has revoked; as they stood in the folder
/// when it was read. `IdentityKeeper` reads again when the files change.
package struct NodeIdentity: Sendable {
  package enum File {
    package static let authority = "ca.pem"
    package static let certificate = "node.pem"
    package static let key = "node.key"
    package static let revocations = "revoked.pem"
  }

  package let certificate: NodeCertificate
  package let name: NodeName
  package let trust: TrustStore
  /// A server takes peers without a certificate, too, for they come to get one: the enrolment endpoint.
  let isAnyoneWelcome: Bool
  private let key: P256.Signing.PrivateKey
  private let serverContext: NIOSSLContext
  private let clientContext: NIOSSLContext

  package var notAfter: Date { certificate.notAfter }

  /// Reads a node's folder. That the certificate has expired, or is revoked, is for the other end to say, and for `warnings`: a node may renew.
  package init(directory: String) throws(CertificateError) {
    let folder = NodeFolder(directory)
    let certificate = try folder.readCertificate()
    let key = try folder.readKey(of: certificate)
    let roots = try folder.readRoots()
    let list = try folder.readRevocations()
    let trust: TrustStore
    do throws(CertificateError) { trust = try TrustStore(roots: roots, revocations: list) } catch {
      if case .badSignature = error {
        throw .content(path: "\(directory)/\(File.revocations)", why: "not signed by the CA in \(File.authority)")
      }
      throw .content(path: "\(directory)/\(File.authority)", why: "\(error)")
    }
    try self.init(certificate: certificate, key: key, trust: trust)
  }

  init(
    certificate: NodeCertificate, key: P256.Signing.PrivateKey, trust: TrustStore, isAnyoneWelcome: Bool = false
  ) throws(CertificateError) {
    guard let name = certificate.name else { throw .noName(peer: certificate.label) }
    guard trust.roots.contains(where: certificate.isSigned(by:)) else { throw .otherAuthority(peer: name.description) }
    self.certificate = certificate
    self.name = name
    self.key = key
    self.trust = trust
    self.isAnyoneWelcome = isAnyoneWelcome
    do {
      // The enrolment endpoint shows its CA, too: those who come know only its fingerprint.
      let chain = [certificate] + (isAnyoneWelcome ? trust.roots : [])
      serverContext = try TLSContexts.make(
        chain: chain, key: key, roots: trust.roots, verification: isAnyoneWelcome ? .optionalVerification : .noHostnameVerification,
        isServer: true)
      clientContext = try TLSContexts.make(
        chain: [certificate], key: key, roots: trust.roots, verification: .noHostnameVerification, isServer: false)
    } catch {
      throw .tls("TLS cannot be set up with the certificate of \(name): \(error)")
    }
  }

  /// The same with this list in place of the one that was read.
  func keeping(_ revocations: RevocationList) throws(CertificateError) -> NodeIdentity {
    try NodeIdentity(certificate: certificate, key: key, trust: try TrustStore(roots: trust.roots, revocations: revocations))
  }

  /// TLS 1.3 alone, a certificate of ours demanded. A channel needs a `PeerGate` beside it, as `secure` makes it: the context alone knows no roles and no
  /// revocations.
  package func tlsServer() -> NIOSSLContext { serverContext }
  package func tlsClient() -> NIOSSLContext { clientContext }

  /// Decides on a certificate that came in any other way than a TLS handshake.
  package func verify(
    _ der: [UInt8], expecting expectation: PeerExpectation, at now: Date = Date()
  ) throws(CertificateError) -> VerifiedPeer {
    try trust.verify(der, expecting: expectation, at: now)
  }

  // MARK: Signatures

  /// ECDSA on P-256 with SHA-256, in DER. What is signed begins with a label of its use, so that no signature fits elsewhere.
  package func sign(_ bytes: [UInt8]) throws(CertificateError) -> [UInt8] {
    do { return Array(try key.signature(for: bytes).derRepresentation) } catch {
      throw .unsuitable(peer: name.description, why: "its key cannot sign: \(error)")
    }
  }

  /// Who signed `bytes`: the owner of `certificate`, once that is found good and the signature right.
  package func verify(
    _ signature: [UInt8], over bytes: [UInt8], by certificate: [UInt8], expecting expectation: PeerExpectation, at now: Date = Date()
  ) throws(CertificateError) -> NodeName {
    let peer = try trust.verify(certificate, expecting: expectation, at: now)
    guard let key = peer.certificate.publicKey, let signature = try? P256.Signing.ECDSASignature(derRepresentation: signature),
      key.isValidSignature(signature, for: bytes)
    else { throw .badSignature(peer: peer.name.description) }
    return peer.name
  }

  // MARK: What an operator should hear

  /// A third of a certificate's life is left: time to renew, with two more thirds of a third for repeated attempts.
  package static let renewalFraction = 1.0 / 3

  package func isDueForRenewal(at now: Date = Date()) -> Bool {
    notAfter.timeIntervalSince(now) < notAfter.timeIntervalSince(certificate.notBefore) * NodeIdentity.renewalFraction
  }

  /// Whole lines for a log; none if all is well.
  package func warnings(at now: Date = Date()) -> [String] {
    var lines: [String] = []
    do { _ = try trust.verify(certificate, expecting: PeerExpectation([name.role]), at: now) } catch { lines.append("\(error)") }
    if lines.isEmpty, isDueForRenewal(at: now) {
      lines.append("the certificate of \(name) expires on \(notAfter.inWords); renew it with `longhaul pki renew`")
    }
    if let list = trust.revocations, now > list.nextUpdate {
      lines.append("the revocation list is from \(list.issued.inWords); fetch a new one with `longhaul pki revocations`")
    }
    return lines
  }
}
