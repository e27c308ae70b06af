import ArgumentParser
import Enrolment
import Logging
import Sockets

extension Location: ExpressibleByArgument {
  package init?(argument: String) { self.init(argument) }
}

/// Where a node has its certificate, and who keeps it fresh.
package struct CertificateOptions: ParsableArguments {
  @Option(
    help: "The folder with this node's certificate (see `longhaul pki`): sessions are sealed then, among nodes with certificates only.")
  package var certificates: String?

  @Option(help: "Where `longhaul pki serve` answers, ADDRESS:PORT: the certificate is renewed and revocations are fetched from there.")
  package var authority: Location?

  package init() {}

  package func validate() throws {
    if authority != nil, certificates == nil {
      throw ValidationError("--authority needs --certificates: which certificate is to be kept fresh?")
    }
  }

  /// Keeps the folder fresh until the task is cancelled; nil where nobody is named who could.
  package func upkeep(logger: Logger) -> Task<Void, Never>? { keepFresh(certificates, from: authority, logger: logger) }
}

/// Keeps a node's folder fresh until the task is cancelled; nil where nobody is named who could.
package func keepFresh(_ folder: String?, from authority: Location?, logger: Logger) -> Task<Void, Never>? {
  guard let folder, let authority else { return nil }
  return Task { await IdentityUpkeep(authority, directory: folder, logger: logger).run() }
}
