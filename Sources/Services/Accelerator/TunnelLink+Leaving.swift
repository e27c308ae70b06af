import NIOCore
import Tunnel

/// A connection on which no flow begins any more: one of its ends is about to stop, or has too many.
extension TunnelLink {
  /// Tells the peer; flows that live go on. Not established: there is nothing to wait for, and nobody to tell.
  func leave() {
    guard !isLeaving, !isClosed else { return }
    isLeaving = true
    if isEstablished { say(.leaving) }
  }

  /// Leaves, and closes when the last flow has ended.
  func leave(thenClose goodbye: TunnelGoodbye) {
    leave()
    guard isEstablished, flowCount > 0 else { return close(goodbye) }
    hub?.onIdle = { [weak self] in
      // In a turn of its own: the hub is still at its events.
      self?.loop.assumeIsolated().execute { if let self, self.flowCount == 0 { self.close(goodbye) } }
    }
  }

  /// The acceptor has to know that no OPEN is under way any more: the dialler answers.
  func peerLeaves() {
    hasPeerLeft = true
    if setup.role == .dialler { leave() }
  }

  /// No flow lives here, and none can come.
  var isSpent: Bool {
    guard isEstablished else { return true }
    return flowCount == 0 && (setup.role == .dialler ? isLeaving : hasPeerLeft)
  }
}
