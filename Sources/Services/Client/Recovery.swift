import Control
import Vocabulary

/// Where a session's next carrier should go and when: pure bookkeeping for the client's session.
///
/// The destination is what the last GO said (at first, what the settings say). While tries fail, an accelerated path falls back to the
/// direct one, and addresses that the agent announced are tried too, since the controller may be what is lost.
struct Recovery {
  /// The first try is immediate; then 100 ms, doubled to at most 2 s, each with up to a quarter more by chance, so that a thousand clients do not return in step.
  static let firstDelay = TimeSpan.milliseconds(100 as Int64)
  static let longestDelay = TimeSpan.seconds(2 as Int64)
  /// An accelerator that fails twice in a row is passed by.
  static let triesThroughAccelerator = 2
  /// Addresses that the peer may announce and we keep; more are ignored.
  static let maximumAnnounced = 8

  struct Place: Equatable {
    var agent: Endpoint
    var path: PathChoice
  }

  private(set) var destination: Place
  private(set) var failures = 0
  private var announced: [IPAddress] = []

  init(destination: Place) { self.destination = destination }

  /// GO: the destination is certain again.
  mutating func head(for place: Place) {
    destination = place
    failures = 0
  }

  mutating func succeeded(at place: Place) {
    destination = place
    failures = 0
  }

  mutating func failed() { failures += 1 }

  mutating func announce(_ address: IPAddress) {
    guard announced.count < Recovery.maximumAnnounced, !announced.contains(address) else { return }
    announced.append(address)
  }

  mutating func withdraw(_ address: IPAddress) { announced.removeAll { $0 == address } }

  func knows(_ address: IPAddress) -> Bool { destination.agent.address == address || announced.contains(address) }

  /// Where to try next.
  var next: Place {
    if failures < Recovery.triesThroughAccelerator { return destination }
    let direct = [destination.agent.address] + announced.filter { $0 != destination.agent.address }
    let address = direct[(failures - Recovery.triesThroughAccelerator) % direct.count]
    return Place(agent: Endpoint(address: address, port: destination.agent.port), path: .direct)
  }

  func delay(using random: inout some RandomNumberGenerator) -> TimeSpan {
    guard failures > 0 else { return .zero }
    let doubled = Recovery.firstDelay * (Int64(1) << Int64(min(failures - 1, 10)))
    let base = min(doubled, Recovery.longestDelay)
    return base + .nanoseconds(Int64.random(in: 0...base.nanoseconds / 4, using: &random))
  }
}
