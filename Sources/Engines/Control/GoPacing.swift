import Vocabulary

/// How fast the clients of one machine are told to move: as many as its agent takes at once without anybody noticing, the others as its agent can take them, so that the spread of a handover
/// grows with its clients and with nothing else: a thousand clients need a quarter of a second, ten thousand five.
///
/// A move costs an agent 0.1 ms of one core (docs/benchmarks.md). A client that learns of GO another way (from the agent, by its parked flight, by its own search) is not held back.
package struct GoPacing: Sendable {
  /// Told at once: 500 x 0.1 ms = 50 ms until the last of them is served.
  package static let burst = 500
  /// Then so many in a second: a fifth of the agent's core, which has their data to send as well.
  package static let perSecond = 2_000

  private static let interval = TimeSpan.nanoseconds(1_000_000_000 / Int64(perSecond))
  /// When all that have been told would be done at the steady rate; the burst is how far it may run ahead.
  private var due: Instant?

  package init() {}

  /// How long the next client's GO waits.
  package mutating func delay(at now: Instant) -> TimeSpan {
    let start = max(due ?? now, now)
    due = start + Self.interval
    let ahead = start - now - Self.interval * Int64(Self.burst - 1)
    return max(ahead, .zero)
  }
}
