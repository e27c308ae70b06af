import Certificates
import Logging
import Sockets

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Keeps a node's folder fresh from the enrolment endpoint: renews the certificate when a third of its life is left, and fetches revocations.
/// Whoever uses the folder learns of it through `IdentityKeeper`.
package struct IdentityUpkeep: Sendable {
  package struct Round: Sendable {
    /// Nil if it was not due.
    package var renewed: NodeCertificate?
    /// Nil if there was nothing newer.
    package var revocations: RevocationList?
  }

  private let client: EnrolmentClient
  private let folder: NodeFolder
  private let logger: Logger
  private let clock: @Sendable () -> Date

  package init(_ place: Location, directory: String, logger: Logger, clock: @escaping @Sendable () -> Date = { Date() }) {
    client = EnrolmentClient(place, clock: clock)
    folder = NodeFolder(directory)
    self.logger = logger
    self.clock = clock
  }

  /// Renews if it is time, then fetches revocations.
  package func refresh() async throws -> Round {
    let isDue = try NodeIdentity(directory: folder.directory).isDueForRenewal(at: clock())
    let renewed = isDue ? try await client.renew(folder) : nil
    let (list, isNew) = try await client.fetchRevocations(into: folder)
    return Round(renewed: renewed, revocations: isNew ? list : nil)
  }

  /// Runs until its task is cancelled. A CA that is away costs nothing but freshness: said once, and tried again.
  package func run() async {
    var lastFailure: String?
    while !Task.isCancelled {
      do {
        let round = try await refresh()
        if let certificate = round.renewed { logger.info("certificate renewed", metadata: ["expires": "\(certificate.notAfter.inWords)"]) }
        if let list = round.revocations {
          logger.info("revocations fetched", metadata: ["list.number": "\(list.number)", "revoked": "\(list.entries.count)"])
        }
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
