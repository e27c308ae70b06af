import NIOCore

/// Every wait, queue and retry of a node's link to the controller.
package struct ControlLinkLimits: Sendable {
  /// The controller's order stream carries an order or a comment at least this often (docs/wire/control.md).
  package static let keepAliveInterval = TimeAmount.seconds(2)

  /// A stream that is silent for three keep-alive intervals is dead: two comments in a row may be late, the third is not.
  package var silence = ControlLinkLimits.keepAliveInterval * 3
  /// For one TCP connection from one address: a SYN that was lost is sent again after 1 s (RFC 6298), so one loss fits.
  package var connect = TimeAmount.seconds(2)
  /// From a request to its answer's head: a controller that is 300 ms away and pauses for a few seconds still fits.
  package var answer = TimeAmount.seconds(10)
  /// Between two tries: 100 ms, doubled to at most 2 s, each with up to a quarter more by chance, so that a thousand nodes do not come back in step.
  package var firstPause = TimeAmount.milliseconds(100)
  package var longestPause = TimeAmount.seconds(2)
  /// After a refusal, which only a person can lift (the keys differ): slow enough to be no load, fast enough that nobody restarts the node.
  package var refusedPause = TimeAmount.seconds(10)
  /// Reports that wait: a client with 64 targets reports 64 measurements a second, so 16 s of absence lose none.
  package var maximumReports = 1_024
  /// Reports in one request: 64 x about 200 octets stay below 16 KiB.
  package var reportsPerRequest = 64
  /// The longest order: a `probe` with 64 targets has about 8 KB.
  package var maximumOrderOctets = 256 << 10
  /// Of a refusal's body, for the log.
  package var maximumReasonOctets = 512

  package init() {}
}

/// Pauses between tries, from the first failure on.
struct Backoff {
  private(set) var failures = 0

  mutating func reset() { failures = 0 }

  mutating func next(_ limits: ControlLinkLimits, using random: inout some RandomNumberGenerator) -> TimeAmount {
    // 2^10 x 100 ms is past any longest pause, and far from overflowing.
    let doubled = limits.firstPause.nanoseconds << Int64(min(failures, 10))
    failures += 1
    let base = min(doubled, limits.longestPause.nanoseconds)
    return .nanoseconds(base + Int64.random(in: 0...base / 4, using: &random))
  }
}
