import Synchronization
import Vocabulary

/// The pacing shares of all peers. Asked when a peer's first connection comes up, never while octets flow.
final class PacingShares: Sendable {
  private let shares = Mutex<[NodeID: PacingShare]>([:])

  /// The same for every event loop. Names come from peers that have proved the key, so there are few.
  func share(of peer: NodeID) -> PacingShare {
    shares.withLock { shares in
      if let share = shares[peer] { return share }
      let share = PacingShare()
      shares[peer] = share
      return share
    }
  }
}
