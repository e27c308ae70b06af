import Vocabulary

/// Tells a flow that moves much from one that says little and waits.
struct FlowActivity: Sendable {
  /// Octets within the span that make a flow bulk: two chunks. What moves less may wait for an answer that its last octets bring about.
  static let bulkOctets = 16 << 10

  private var since = Instant.zero
  private var span = TimeSpan.milliseconds(Int64(1))
  private var octets = 0
  private var before = 0
  private var last = Instant.zero

  mutating func note(_ count: Int, at now: Instant) {
    roll(now)
    octets += count
    last = now
  }

  func isQuiet(at now: Instant, for span: TimeSpan) -> Bool { now - last >= span }

  mutating func isBulk(at now: Instant, within span: TimeSpan) -> Bool {
    self.span = span
    roll(now)
    return octets + before >= FlowActivity.bulkOctets
  }

  private mutating func roll(_ now: Instant) {
    let age = now - since
    guard age >= span else { return }
    before = age < span + span ? octets : 0
    octets = 0
    since = now
  }
}
