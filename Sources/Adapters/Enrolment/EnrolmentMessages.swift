/// What travels between a node and the enrolment endpoint, as JSON. docs/wire/certificates.md
struct EnrolmentRequest: Codable, Sendable {
  /// Nil in a renewal: the certificate shown in TLS stands for it.
  var token: String?
  /// PKCS #10 in PEM.
  var request: String
}

struct EnrolmentAnswer: Codable, Sendable {
  /// The new certificate, in PEM as the others.
  var certificate: String
  var authority: String
  var revocations: String
}

struct EnrolmentRefusal: Codable, Sendable {
  /// One line for a person.
  var error: String
}

enum EnrolmentPath {
  static let enrol = "/v1/enrol"
  static let renew = "/v1/renew"
  /// Answered with the list itself, in PEM.
  static let revocations = "/v1/revocations"
}

/// Why a node got nothing from the CA, or the CA's endpoint does not start. Each description is a whole line for a person.
package enum EnrolmentError: Error, CustomStringConvertible {
  case unreachable(at: String, why: String)
  case refused(by: String, why: String)
  case notListening(on: String, why: String)
  case answer(from: String, why: String)

  package var description: String {
    switch self {
    case .unreachable(let place, let why): "enrolment endpoint \(place): \(why); is `longhaul pki serve` running there?"
    case .refused(let place, let why): "enrolment endpoint \(place): \(why)"
    case .notListening(let place, let why):
      "enrolment endpoint: cannot listen on \(place): \(why); choose another --listen, or end the program that has it"
    case .answer(let place, let why): "enrolment endpoint \(place): gave an answer that cannot be used: \(why)"
    }
  }
}
