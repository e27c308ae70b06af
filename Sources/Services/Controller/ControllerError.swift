import Certificates
import Vocabulary

/// Why a controller cannot run. Each description is a whole line for a person.
package enum ControllerError: Error, Sendable, Hashable, CustomStringConvertible {
  case unreadable(file: String, reason: String)
  /// `key` is the way to the value, as `machines[0].places[1].agent`.
  case setting(file: String, line: Int?, key: String, problem: String)
  case cannotListen(Endpoint, reason: String)
  case anotherCertificate(NodeName)

  package var description: String {
    switch self {
    case .unreadable(let file, let reason): "settings \(file): \(reason); see docs/operations/controller.md for an example"
    case .setting(let file, let line, let key, let problem): "settings \(file)\(line.map { ":\($0)" } ?? ""): \(key): \(problem)"
    case .cannotListen(let endpoint, let reason):
      "controller cannot listen on \(endpoint): \(reason); choose another address or port with `listen` in the settings, or end what uses it"
    case .anotherCertificate(let name):
      "controller: the certificate in `certificates` is that of \(name), and nodes obey controllers only; enrol it as controller/NAME (`longhaul pki`)"
    }
  }
}
