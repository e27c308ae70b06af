import Control
import Vocabulary

/// GO to many clients of one machine: not all in the same moment (`GoPacing`).
extension ControllerCore {
  /// A GO that waits for its turn is replaced by a newer one, so that no more wait than there are clients.
  func sendPaced(_ order: NodeOrder, to node: NodeID, of machine: MachineID) {
    if waitingGo[node] != nil {
      waitingGo[node] = order
      return
    }
    let delay = pacing[machine, default: GoPacing()].delay(at: ControllerCore.now)
    guard delay > .zero else { return send(order, to: node) }
    waitingGo[node] = order
    Task {
      try? await Task.sleep(for: .nanoseconds(delay.nanoseconds))
      sendWaiting(node)
    }
  }

  private func sendWaiting(_ node: NodeID) {
    if let order = waitingGo.removeValue(forKey: node) { send(order, to: node) }
  }

  /// The machine stays where it was.
  func dropWaiting(_ order: NodeOrder, for node: NodeID) { if case .rollBack = order { waitingGo[node] = nil } }
}
