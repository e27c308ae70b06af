import Certificates
import Logging
import Sockets

/// Keeps a node's folder fresh from the enrolment endpoint: renews the certificate when a third of its life is left, and fetches revocations.
/// Whoever uses the folder learns of it through `IdentityKeeper`.
package struct IdentityUpkeep: Sendable {
  private let client: EnrolmentClient
  private let folder: NodeFolder
  private let logger: Logger

  package init(_ place: Location, directory: String, logger: Logger) {
    client = EnrolmentClient(place)
    folder = NodeFolder(directory)
    self.logger = logger
  }

  /// Runs until its task is cancelled. A CA that is away costs nothing but freshness: said once, and tried again.
  package func run() async {
    var lastFailure: String?
    while !Task.isCancelled {
      do {
        if try NodeIdentity(directory: folder.directory).isDueForRenewal() {
          let certificate = try await client.renew(folder)
          logger.info("certificate renewed", metadata: ["expires": "\(certificate.notAfter.inWords)"])
        }
        let (list, isNew) = try await client.fetchRevocations(into: folder)
        if isNew { logger.info("revocations fetched", metadata: ["list.number": "\(list.number)", "revoked": "\(list.entries.count)"]) }
        lastFailure = nil
      } catch {
        let words = "\(error)"
        if !Task.isCancelled, words != lastFailure { logger.warning("certificate not kept fresh: \(words)") }
        lastFailure = words
      }
      // Spread, so that nodes that started together do not ask together.
      try? await Task.sleep(for: EnrolmentLimits.upkeepInterval * Double.random(in: 0.75...1.25))
    }
  }
}
