import Vocabulary

/// The warm-up of one connection's sending direction: how much PAD goes out now, and when it is enough.
///
/// A TCP connection learns what its path carries only by sending. Padding lets it learn before data needs it: octets go out as fast as the window
/// lets them (the kernel paces them at the path's rate) until twice bandwidth x delay has been delivered; slow start from ten segments to a
/// full window takes about that many octets. What TCP may have under way is never used up: a flow that is opened meanwhile goes out behind `reserve` of padding, not behind
/// round trips of it. Then the connection idles, which costs it nothing where the kernel keeps idle windows
/// (BBR, or tcp_slow_start_after_idle = 0); where it does not, the window is opened again while the hold lasts.
package struct WarmUp: Sendable {
  /// What TCP says of the connection now.
  package struct Reading: Sendable {
    /// Octets acknowledged since the connection began.
    package var delivered: UInt64
    package var congestionWindow: Int
    /// Octets that the peer takes; 0 if that is not known.
    package var peerWindow: Int
    /// Octets sent and not acknowledged.
    package var inFlight: Int
    /// Octets handed to TCP that it has not sent yet.
    package var unsent: Int
    /// True while application data is under way or waits, on this connection or another to the same peer.
    package var isBusy: Bool

    package init(delivered: UInt64, congestionWindow: Int, peerWindow: Int = 0, inFlight: Int = 0, unsent: Int, isBusy: Bool) {
      self.delivered = delivered
      self.congestionWindow = congestionWindow
      self.peerWindow = peerWindow
      self.inFlight = inFlight
      self.unsent = unsent
      self.isBusy = isBusy
    }
  }

  package enum Step: Sendable, Hashable {
    /// Send so many octets of padding now (maybe none), and ask again at the moment.
    case pad(Int, again: Instant)
    /// The window has just opened to this many octets, or time ran out with so many; ask again at the moment.
    case opened(Int, isFull: Bool, again: Instant)
    case over
  }

  private enum State: Sendable {
    case opening(since: Instant, base: UInt64?)
    case holding
  }

  /// While opening, TCP is looked after so often: 5 ms x 1 Gbit/s / 8 = 625 KB, what `reserve` must not exceed by much to keep up.
  package static let tick = TimeSpan.milliseconds(Int64(5))
  /// What TCP should have in hand while opening, in time at the path's rate, so that it never lacks octets between two ticks; a flow that is opened waits behind it.
  static let reserve = TimeSpan.milliseconds(Int64(10))
  /// Of the smaller of the two windows padding takes three quarters: more than half lets both grow (TCP counts itself limited by its window from half of it on; the receiver
  /// doubles what it got in a round trip), and the rest lets a flow's first octets go at once.
  static let share = (3, of: 4)
  /// While holding, the window is looked at so often.
  static let check = TimeSpan.seconds(Int64(1))
  /// Opening takes no longer than this, or 15 round trips, whichever is longer: with three quarters of it used, a window of ten segments grows 1.75-fold in each, to 10,000 in 13 of them.
  static let longest = TimeSpan.seconds(Int64(3))
  static let mostRoundTrips: Int64 = 15
  /// Opening again while holding costs up to 2 x bandwidth x delay; so seldom that it stays below 5 % of the rate: 40 round trips.
  static let roundTripsBetween: Int64 = 40

  package private(set) var request: WarmRequest
  private var state: State
  private var until: Instant
  private var lastOpened = Instant.zero

  package init(_ request: WarmRequest, at now: Instant) {
    self.request = request
    state = .opening(since: now, base: nil)
    until = now + request.hold
  }

  /// True while padding opens the window, false while it is only kept.
  package var isOpening: Bool {
    if case .opening = state { return true }
    return false
  }

  /// The same order came again: the hold lasts longer.
  package mutating func extend(_ request: WarmRequest, at now: Instant) {
    self.request = request
    until = max(until, now + request.hold)
  }

  package mutating func step(_ reading: Reading, at now: Instant) -> Step {
    switch state {
    case .opening(let since, let base):
      return open(reading, since: since, base: base ?? reading.delivered, at: now)
    case .holding:
      guard now < until else { return .over }
      let mayOpen = now - lastOpened >= request.roundTrip * WarmUp.roundTripsBetween
      if reading.congestionWindow < request.windowOctets, !reading.isBusy, mayOpen {
        state = .opening(since: now, base: reading.delivered)
        return .pad(0, again: now)
      }
      return .pad(0, again: min(now + WarmUp.check, until))
    }
  }

  private mutating func open(_ reading: Reading, since: Instant, base: UInt64, at now: Instant) -> Step {
    state = .opening(since: since, base: base)
    let delivered = Int(clamping: reading.delivered &- base)
    let isFull = reading.congestionWindow >= request.windowOctets && delivered >= 2 * request.windowOctets
    let limit = max(WarmUp.longest, request.roundTrip * WarmUp.mostRoundTrips)
    if isFull || now - since >= limit || delivered >= TunnelLimits.warmOctets {
      state = .holding
      lastOpened = now
      return .opened(reading.congestionWindow, isFull: isFull, again: now)
    }
    // Padding is what is left over: as soon as there is data, the data opens the window.
    if reading.isBusy { return .pad(0, again: now + WarmUp.tick) }
    let wanted = max(request.rate.bytes(in: WarmUp.reserve).octets, TunnelLimits.dataOctets)
    let window = reading.peerWindow > 0 ? min(reading.congestionWindow, reading.peerWindow) : reading.congestionWindow
    let room = window / WarmUp.share.of * WarmUp.share.0 - reading.inFlight
    return .pad(max(min(wanted, room) - reading.unsent, 0), again: now + WarmUp.tick)
  }
}
