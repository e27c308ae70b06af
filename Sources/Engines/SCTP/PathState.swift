import Vocabulary

/// How the packets of a carrier travel.
package enum CarrierKind: Sendable, Hashable {
  /// TCP: nothing is lost or reordered while the carrier lives.
  case reliable
  /// UDP, or IP: each packet by itself, of at most `mtu` octets from the common header on.
  case datagram(mtu: Int)
}

/// What is known of the way to one of the peer's addresses.
package enum PathStatus: Sendable, Hashable {
  /// No HEARTBEAT has come back yet: nothing but HEARTBEAT goes there (RFC 9260 section 5.4).
  case unconfirmed
  case active
  /// Path.Max.Retrans has been exceeded; only HEARTBEAT goes there.
  case failed
}

/// The constants of RFC 9260 section 16.
package struct PathLimits: Sendable, Hashable {
  package var initialRTO = TimeSpan.seconds(1 as Int64)
  package var minimumRTO = TimeSpan.seconds(1 as Int64)
  package var maximumRTO = TimeSpan.seconds(60 as Int64)
  /// HB.interval.
  package var heartbeatInterval = TimeSpan.seconds(30 as Int64)
  /// Path.Max.Retrans and Association.Max.Retrans.
  package var pathRetransmissions = 5
  package var associationRetransmissions = 10
  /// Max.Init.Retransmits.
  package var handshakeRetransmissions = 8
  /// Packets of DATA that follow one event, so that a window that opens at once does not become a burst in a router's queue.
  package var maximumBurst = 4

  package init() {}
}

/// One destination of a datagram association: its congestion window, its timers, its errors (RFC 9260 sections 6.3, 7.2 and 8).
struct PathState: Sendable {
  /// How large its packets may be, and the search for that.
  var packetSize: PathMTU
  var mtu: Int { packetSize.current }
  var status: PathStatus

  /// cwnd, ssthresh and partial_bytes_acked, in octets.
  private(set) var window: Int
  private(set) var threshold = Int.max
  private var partiallyAcked = 0
  /// Octets of DATA that are on the way here, neither acknowledged nor given up.
  var inFlight = 0
  /// The TSN whose acknowledgement ends fast recovery.
  private(set) var recoveryEnd: TSN?
  /// One packet of lost chunks may leave whatever the window says (RFC 9260 section 7.2.4, rule 3).
  var mayExceedWindow = false
  /// Packets of DATA that may still follow the latest event.
  var burst: Int

  private(set) var rto: TimeSpan
  private(set) var smoothedRTT: TimeSpan?
  private var variation = TimeSpan.zero
  /// The chunk whose acknowledgement gives the next round trip: one at a time, and never one that was sent twice (Karn).
  var measured: TSN?

  var errors = 0
  /// T3-rtx.
  var retransmission: Instant?
  var heartbeatTimer: Instant?
  var heartbeat: (nonce: UInt64, sentAt: Instant)?
  var isHeartbeatDue = false
  var lastSent: Instant

  // What one SACK says of this path; see `Association+Congestion`.
  var newlyAcked = 0
  var hasAdvanced = false
  var latestAcked: UInt64 = 0
  private var inFlightBefore = 0

  init(mtu: Int, discoversMTU: Bool = false, status: PathStatus, limits: PathLimits, at now: Instant) {
    precondition(mtu >= 128, "a packet has room for headers and some data")
    packetSize = PathMTU(maximum: mtu, isDiscovered: discoversMTU)
    self.status = status
    let mtu = packetSize.current
    // RFC 9260 section 7.2.1: min(4 x PMTU, max(2 x PMTU, 4,404 octets)).
    window = min(4 * mtu, max(2 * mtu, 4_404))
    burst = limits.maximumBurst
    rto = limits.initialRTO
    lastSent = now
  }

  var isInRecovery: Bool { recoveryEnd != nil }
  /// Fewer octets are on the way than the window allows; the last packet may overshoot it (RFC 9260 section 6.1, rule B).
  var hasRoom: Bool { inFlight < window }

  // MARK: Congestion

  /// DATA leaves after the path was idle for an RTO: the window is no longer what the network would bear (RFC 9260 section 7.2.1).
  mutating func resume(at now: Instant) {
    if inFlight == 0, now - lastSent > rto { window = min(window, max(window / 2, 4 * mtu)) }
    lastSent = now
  }

  mutating func beginSACK() {
    newlyAcked = 0
    hasAdvanced = false
    latestAcked = 0
    inFlightBefore = inFlight
  }

  /// A SACK has acknowledged `newlyAcked` octets.
  mutating func grow() {
    guard hasAdvanced, !isInRecovery else { return }
    let wasInUse = inFlightBefore + mtu > window
    if window <= threshold {
      // Slow start, with L = 1 (RFC 9260 section 7.2.1), and only when the window was in use.
      if wasInUse { window += min(newlyAcked, mtu) }
    } else {
      partiallyAcked += newlyAcked
      if partiallyAcked >= window, wasInUse {
        partiallyAcked -= window
        window += mtu
      }
      partiallyAcked = min(partiallyAcked, window)
    }
    if inFlight == 0 { partiallyAcked = 0 }
  }

  /// Chunks were reported missing three times (RFC 9260 section 7.2.4): once per window of data.
  mutating func enterRecovery(until highest: TSN) {
    mayExceedWindow = true
    guard !isInRecovery else { return }
    threshold = max(window / 2, 4 * mtu)
    window = threshold
    partiallyAcked = 0
    recoveryEnd = highest
  }

  mutating func leaveRecovery(at cumulative: TSN) {
    if let recoveryEnd, !cumulative.isBefore(recoveryEnd) { self.recoveryEnd = nil }
  }

  /// T3-rtx has expired (RFC 9260 sections 6.3.3 and 7.2.3).
  mutating func timeOut(_ limits: PathLimits) {
    threshold = max(window / 2, 4 * mtu)
    window = mtu
    partiallyAcked = 0
    recoveryEnd = nil
    measured = nil
    backOff(limits)
  }

  // MARK: Time

  mutating func backOff(_ limits: PathLimits) { rto = min(rto * 2, limits.maximumRTO) }

  /// RFC 9260 section 6.3.1: alpha 1/8, beta 1/4.
  mutating func measure(_ span: TimeSpan, _ limits: PathLimits) {
    if let old = smoothedRTT {
      let difference = TimeSpan.nanoseconds(abs((old - span).nanoseconds))
      variation = (variation * 3 + difference) / 4
      smoothedRTT = (old * 7 + span) / 8
    } else {
      smoothedRTT = span
      variation = span / 2
    }
    rto = min(max((smoothedRTT ?? span) + variation * 4, limits.minimumRTO), limits.maximumRTO)
  }

  var deadline: Instant? {
    var soonest = retransmission
    for timer in [heartbeatTimer, packetSize.timer] { if let timer, soonest.map({ timer < $0 }) ?? true { soonest = timer } }
    return soonest
  }
}
