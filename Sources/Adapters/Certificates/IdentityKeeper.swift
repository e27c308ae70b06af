import Logging
import Synchronization

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The identity of a running node: reads its folder again when a file in it changes, so that a renewed certificate and a new revocation count without a
/// restart. Connections that stand go on; new handshakes use the new state.
package final class IdentityKeeper: Sendable {
  /// A revocation counts after so long at the latest; four `stat` calls each time.
  package static let checkInterval = Duration.seconds(5)
  /// What an operator should hear is said again after so long: 12 h.
  private static let warningSeconds = 43_200.0

  private struct State {
    var identity: NodeIdentity
    var stamps: [FileStamp?]
  }

  private let folder: NodeFolder
  private let state: Mutex<State>

  package init(directory: String) throws(CertificateError) {
    folder = NodeFolder(directory)
    let stamps = folder.stamps
    state = Mutex(State(identity: try NodeIdentity(directory: directory), stamps: stamps))
  }

  package var current: NodeIdentity { state.withLock { $0.identity } }

  /// True if something had changed and has been taken. What cannot be read leaves the state as it was, and is tried again at the next call.
  package func reloadIfChanged() throws(CertificateError) -> Bool {
    let stamps = folder.stamps
    guard state.withLock({ $0.stamps }) != stamps else { return false }
    var identity = try NodeIdentity(directory: folder.directory)
    // A list with a smaller number is an old one put back: the greater one holds, unless the CA is another.
    if let known = current.trust.revocations, known.number > identity.trust.revocations?.number ?? 0, identity.trust.signed(known) {
      identity = try identity.keeping(known)
    }
    state.withLock { [identity] in $0 = State(identity: identity, stamps: stamps) }
    return true
  }

  /// Runs until its task is cancelled.
  package func watch(logger: Logger) async {
    var lastWarning: Date?
    // Half of a change may be on disk at one moment: only what fails twice is said, and once.
    var failures = 0
    while !Task.isCancelled {
      do throws(CertificateError) {
        if try reloadIfChanged() {
          let identity = current
          logger.info(
            "certificate, CA or revocations changed on disk and taken",
            metadata: [
              "name": "\(identity.name)", "expires": "\(identity.notAfter.inWords)",
              "revoked": "\(identity.trust.revocations?.entries.count ?? 0)",
            ])
          lastWarning = nil
        }
        failures = 0
      } catch {
        failures += 1
        if failures == 2 { logger.warning("changed files of the certificate are not taken, the former ones hold: \(error)") }
      }
      let now = Date()
      if lastWarning.map({ now.timeIntervalSince($0) > IdentityKeeper.warningSeconds }) ?? true {
        for line in current.warnings(at: now) { logger.warning("\(line)") }
        lastWarning = now
      }
      try? await Task.sleep(for: IdentityKeeper.checkInterval)
    }
  }

  /// `watch` as a task of its own, for its owner to cancel.
  package func watching(logger: Logger) -> Task<Void, Never> { Task { await watch(logger: logger) } }
}
