import Vocabulary

/// How large a packet of one path may be, found by asking (RFC 8899, DPLPMTUD): a HEARTBEAT, filled up by a PAD chunk (RFC 4820), is answered or it is not.
///
/// Sizes are of SCTP packets, from the common header on. A probe that is lost says nothing of congestion, nor of the path's health.
struct PathMTU: Sendable {
  enum Phase: Sendable {
    /// The size is what the owner says.
    case fixed
    /// The base size is being confirmed.
    case base
    case searching
    case complete
    /// Not even the base size is answered: the least that IPv4 must carry is used.
    case error
  }

  /// BASE_PLPMTU (RFC 8899 section 5.1.2).
  static let base = 1_200
  /// IPv4's 576 less 20 for IP and 8 for UDP.
  static let least = 548
  /// MAX_PROBES.
  static let maximumProbes = 3
  /// PMTU_RAISE_TIMER: then larger sizes are tried again.
  static let raiseInterval = TimeSpan.seconds(600 as Int64)
  /// The search ends when what works and what does not are so close: 16 octets are 1 % of a packet.
  static let precision = 16
  /// Consecutive timeouts after which the size is doubted (RFC 8899 section 4.3): one is a loss like others.
  static let doubtfulTimeouts = 2

  private(set) var phase: Phase
  private(set) var current: Int
  private let maximum: Int
  /// The smallest size that is known not to work.
  private var ceiling: Int
  private(set) var candidate: Int
  private var tries = 0
  private(set) var nonce: UInt64?
  private(set) var isDue = false
  private(set) var timer: Instant?

  init(maximum: Int, isDiscovered: Bool) {
    self.maximum = maximum
    ceiling = maximum + 1
    phase = isDiscovered && maximum > Self.base ? .base : .fixed
    current = phase == .fixed ? maximum : Self.base
    candidate = current
  }

  /// The path works.
  mutating func begin(at now: Instant) { if phase == .base, timer == nil, !isDue { isDue = true } }

  /// A probe leaves.
  mutating func sent(_ nonce: UInt64, rto: TimeSpan, at now: Instant) {
    self.nonce = nonce
    isDue = false
    tries += 1
    timer = now + rto
  }

  /// True if another size is in use by this.
  mutating func acknowledge(_ nonce: UInt64, at now: Instant) -> Bool {
    guard nonce == self.nonce else { return false }
    let before = current
    current = candidate
    if phase == .base || phase == .error { ceiling = maximum + 1 }
    ask(at: now)
    return current != before
  }

  /// Its timer has expired: the probe is lost, or it is time to look again. True if another size is in use by this.
  mutating func expire(at now: Instant) -> Bool {
    timer = nil
    nonce = nil
    let before = current
    switch phase {
    case .fixed: return false
    case .complete:
      ceiling = maximum + 1
      ask(at: now)
    case .base, .searching, .error:
      if tries < Self.maximumProbes {
        isDue = true
        return false
      }
      if phase == .searching {
        ceiling = candidate
        ask(at: now)
      } else {
        phase = .error
        current = min(current, Self.least)
        begin(candidate: Self.base)
      }
    }
    return current != before
  }

  /// Packets of this size may vanish without a word. True if another size is in use by this.
  mutating func doubt() -> Bool {
    guard phase == .searching || phase == .complete, current > Self.base else { return false }
    phase = .base
    current = Self.base
    begin(candidate: Self.base)
    return true
  }

  /// The next size to try: the whole first, then the middle between what works and what does not.
  private mutating func ask(at now: Instant) {
    nonce = nil
    guard ceiling - current > Self.precision else {
      phase = .complete
      timer = now + Self.raiseInterval
      return
    }
    phase = .searching
    begin(candidate: ceiling > maximum ? maximum & ~3 : ((current + ceiling) / 2) & ~3)
    if candidate <= current {
      phase = .complete
      isDue = false
      timer = now + Self.raiseInterval
    }
  }

  private mutating func begin(candidate: Int) {
    self.candidate = candidate
    tries = 0
    nonce = nil
    timer = nil
    isDue = true
  }
}
