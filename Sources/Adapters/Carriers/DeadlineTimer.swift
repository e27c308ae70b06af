import NIOCore
import Vocabulary

/// The one timer of an engine that has a deadline, on the engine's event loop. The engine's owner sets it after every turn.
final class DeadlineTimer {
  private let loop: any EventLoop
  private let ring: () -> Void
  private var pending: (at: Instant, task: Scheduled<Void>)?

  /// `ring` should not keep the owner alive: the owner keeps the timer.
  init(loop: any EventLoop, ring: @escaping () -> Void) {
    self.loop = loop
    self.ring = ring
  }

  /// Nil: nothing is due. A bell that rings too early is left as it is, since it costs less than a new one for each packet.
  func set(_ next: Instant?) {
    guard let next else {
      pending?.task.cancel()
      pending = nil
      return
    }
    if let pending, pending.at <= next, pending.at > SessionDriver.now() { return }
    pending?.task.cancel()
    let bound = NIOLoopBound(self, eventLoop: loop)
    let task = loop.scheduleTask(deadline: .uptimeNanoseconds(UInt64(max(0, next.nanoseconds)))) { bound.value.fire() }
    pending = (next, task)
  }

  private func fire() {
    pending = nil
    ring()
  }
}
