#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Why a certificate, a key, a token or a file of the CA is not taken. Each description is a whole line for a person: what, where, what next.
package enum CertificateError: Error, Equatable, CustomStringConvertible {
  // What a peer showed. `peer` is the name in its certificate, or the certificate's subject if it has none.
  case noCertificate
  case malformed(String)
  case otherAuthority(peer: String)
  case authorityExpired(on: Date)
  case expired(peer: String, on: Date)
  case tooLate(peer: String, on: Date)
  case notYetValid(peer: String, from: Date)
  case revoked(peer: String, on: Date)
  case noName(peer: String)
  case wrongRole(NodeName, expected: [CertificateRole])
  case wrongName(NodeName, expected: String)
  case unsuitable(peer: String, why: String)
  case badSignature(peer: String)
  case unsigned
  case tls(String)

  // What stands in a file.
  case unreadable(path: String, why: String)
  case unwritable(path: String, why: String)
  case exposed(path: String, mode: UInt32)
  case exists(path: String)
  case content(path: String, why: String)
  case otherKey(key: String, certificate: String)

  // What the CA refuses.
  case token(TokenRefusal)
  case request(String)
  case badName(String)
  case unknownCertificate(String)
  case tooMany(what: String, limit: Int)

  package var description: String {
    switch self {
    case .noCertificate: "the peer showed no certificate; give it one with `longhaul pki issue` or `longhaul pki enrol`"
    case .malformed(let what): "not a certificate of ours: \(what)"
    case .otherAuthority(let peer): "the certificate of \(peer) was signed by another CA than the one in ca.pem"
    case .authorityExpired(let date): "the certificate of the CA expired on \(date.inWords); make a new one with `longhaul pki init`"
    case .expired(let peer, let date): "the certificate of \(peer) expired on \(date.inWords); renew it with `longhaul pki renew`"
    case .tooLate(let peer, let date):
      "the certificate of \(peer) expired on \(date.inWords), too late to renew it; enrol again with a token, `longhaul pki enrol --force`"
    case .notYetValid(let peer, let date):
      "the certificate of \(peer) is valid from \(date.inWords) only; compare the clocks of both machines"
    case .revoked(let peer, let date): "the certificate of \(peer) was revoked on \(date.inWords)"
    case .noName(let peer): "the certificate of \(peer) has no name of the form longhaul://ROLE/NAME"
    case .wrongRole(let name, let expected):
      "the peer is \(name), where \(expected.map(\.withArticle).joined(separator: " or ")) is expected"
    case .wrongName(let name, let expected): "the peer is \(name), where \(name.role.rawValue)/\(expected) is expected"
    case .unsuitable(let peer, let why): "the certificate of \(peer) is not a node's: \(why)"
    case .badSignature(let peer): "the signature is not that of \(peer), or what it covers has been changed"
    case .unsigned: "there is no signature with a certificate"
    case .tls(let words): words
    case .unreadable(let path, let why): "\(path): cannot be read: \(why)"
    case .unwritable(let path, let why): "\(path): cannot be written: \(why)"
    case .exposed(let path, let mode):
      "\(path): others than its owner may read or write it (mode \(String(mode, radix: 8))); close it with `chmod 600 \(path)`, and replace it if anyone may have read it"
    case .exists(let path): "\(path): is there already; choose another folder, or say --force to replace it"
    case .content(let path, let why): "\(path): \(why)"
    case .otherKey(let key, let certificate): "\(key): is not the key of \(certificate); the two were made apart"
    case .token(let refusal): "enrolment token refused: \(refusal)"
    case .request(let why): "request for a certificate refused: \(why)"
    case .badName(let name): "\"\(name)\" is no name for a node: \(NodeName.rule)"
    case .unknownCertificate(let what): "the CA has issued no certificate that is valid to \(what); `longhaul pki list` shows them"
    case .tooMany(let what, let limit): "the CA holds \(limit) \(what), and that is its limit; wait until some have expired, or revoke some"
    }
  }
}

/// Why an enrolment token is worth nothing.
package enum TokenRefusal: Equatable, Sendable, CustomStringConvertible {
  case malformed
  case unknown
  case used(on: Date)
  case expired(on: Date)
  case otherRole(CertificateRole, asked: NodeName)
  case otherName(NodeName, asked: NodeName)
  case nameTaken(NodeName)
  case otherAuthority

  package var description: String {
    switch self {
    case .malformed: "not a token as `longhaul pki token` prints it; was it copied whole?"
    case .unknown: "the CA has given out no such token, or long ago"
    case .used(let date): "it was used on \(date.inWords), and is good once; make another with `longhaul pki token`"
    case .expired(let date): "it expired on \(date.inWords); make another with `longhaul pki token`"
    case .otherRole(let role, let asked): "it is for the role \(role.rawValue), and \(asked) was asked for"
    case .otherName(let name, let asked): "it is for \(name), and \(asked) was asked for"
    case .nameTaken(let name):
      "it leaves the name open, and a node has the name \(name) already; choose another, or ask for a token for this name"
    case .otherAuthority: "the other end does not show the CA whose fingerprint the token carries; nothing was sent to it"
    }
  }
}

extension Date {
  /// `2026-11-24 10:16:13 UTC`.
  package var inWords: String {
    let text = formatted(.iso8601)
    return text.prefix(10) + " " + text.dropFirst(11).prefix(8) + " UTC"
  }
}
