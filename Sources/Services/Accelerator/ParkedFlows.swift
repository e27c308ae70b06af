import NIOCore
import Vocabulary

/// Flows whose machine is on its way to this site: they are not connected before it is there. On one event loop.
final class ParkedFlows {
  /// Flows that may wait for one machine: one for each client that has a session with it.
  static let maximumWaiting = 10_000
  /// Machines that may be on their way to one site at once.
  static let maximumExpected = 1_000

  private struct Expected {
    var waiting: [() -> Void] = []
    var expiry: Scheduled<Void>
  }

  private let loop: any EventLoop
  private var expected: [Endpoint: Expected] = [:]

  init(loop: any EventLoop) { self.loop = loop }

  /// The machine is on its way; said again, its flows wait on. When the time is over without another word they are let go: whoever would have said it is gone, and the
  /// machine may be there.
  func expect(_ agent: Endpoint, for hold: TimeAmount) {
    guard expected[agent] != nil || expected.count < ParkedFlows.maximumExpected else { return }
    expected[agent]?.expiry.cancel()
    let expiry = loop.assumeIsolated().scheduleTask(in: hold) { [weak self] () -> Void in self?.release(agent) }
    if expected[agent] == nil { expected[agent] = Expected(expiry: expiry) } else { expected[agent]?.expiry = expiry }
  }

  /// True: `connect` will be called when the machine is there. False: nothing is known of the machine, or too many wait.
  func park(_ agent: Endpoint, connect: @escaping () -> Void) -> Bool {
    guard let count = expected[agent]?.waiting.count, count < ParkedFlows.maximumWaiting else { return false }
    expected[agent]?.waiting.append(connect)
    return true
  }

  /// The machine is there, or is not coming (connecting will tell): nothing waits any more. How many had waited.
  @discardableResult
  func release(_ agent: Endpoint) -> Int {
    guard let entry = expected.removeValue(forKey: agent) else { return 0 }
    entry.expiry.cancel()
    for connect in entry.waiting { connect() }
    return entry.waiting.count
  }

  func stop() {
    for entry in expected.values { entry.expiry.cancel() }
    expected = [:]
  }
}
