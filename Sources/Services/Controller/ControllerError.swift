import Certificates
import SettingsFiles
import Vocabulary

/// Why a controller cannot run. Each description is a whole line for a person.
package enum ControllerError: Error, Sendable, Hashable, CustomStringConvertible {
  case settings(SettingsError)
  case cannotListen(Endpoint, reason: String)
  case anotherCertificate(NodeName)

  package var description: String {
    switch self {
    case .settings(let error): error.description
    case .cannotListen(let endpoint, let reason):
      "controller cannot listen on \(endpoint): \(reason); choose another address or port with `listen` in the settings, or end what uses it"
    case .anotherCertificate(let name):
      "controller: the certificate in `certificates` is that of \(name), and nodes obey controllers only; enrol it as controller/NAME (`longhaul pki`)"
    }
  }
}
