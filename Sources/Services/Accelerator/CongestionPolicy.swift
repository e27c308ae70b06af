import Vocabulary

/// Which congestion control a tunnel connection has.
///
/// A connection that is paced below its path's rate fills no queue, so on a path without loss cubic never has a reason to shrink its window. BBR would shrink it
/// every ten seconds all the same, to four segments for a round trip and 200 ms, to measure the round trip (PROBE_RTT): at 300 ms that is a gap of half a second
/// in a download. Where segments do get lost, cubic takes each for congestion, and at 300 ms and 0.1 % would be left with 2 Mbit/s; BBR is not. So a paced connection begins
/// with cubic, and changes for good to BBR when segments are lost. Without a rate limit, BBR finds the rate.
///
/// Of a paced connection BBR need not measure the round trip anew: its queue is empty. It forgets when it last did when it is chosen again (`renews`), so it is chosen again while data is under
/// way before its ten seconds are over, and the gap does not come. Chosen again, it begins from the window that there is, and with the pacing that the connection has.
package struct CongestionPolicy: Sendable {
  package enum Control: String, Sendable {
    case cubic, bbr
  }

  /// Retransmissions within `memory` that end cubic. One or two may be a route that changed.
  package static let losses: UInt32 = 3
  /// In segments sent: 86,000 are 10 s at 100 Mbit/s.
  package static let memory: UInt32 = 86_000

  /// BBR lowers its window when its least round trip is ten seconds old; some of our looks (50 ms) before that.
  package static let renewal = TimeSpan.seconds(8 as Int64)
  /// Of a connection that has nothing under way, so that a transfer of some seconds is not met by it at its end, where the window is what is under way.
  package static let idleRenewal = TimeSpan.seconds(1 as Int64)

  package private(set) var control: Control
  private let isPaced: Bool
  private var renewed = Instant.zero
  private var since: (sent: UInt32, retransmitted: UInt32) = (0, 0)

  /// - Parameter keepsIdleWindows: the kernel does not close the window of an idle connection (tcp_slow_start_after_idle = 0). Where it does, only BBR
  ///   comes back with what it knew, so warmed connections take it.
  package init(isPaced: Bool, keepsIdleWindows: Bool) {
    self.isPaced = isPaced
    control = isPaced && keepsIdleWindows ? .cubic : .bbr
  }

  /// What TCP counts since the connection began, modulo 2^32. True if the control has just changed.
  package mutating func observe(sent: UInt32, retransmitted: UInt32) -> Bool {
    guard control == .cubic else { return false }
    if retransmitted &- since.retransmitted >= CongestionPolicy.losses {
      control = .bbr
      return true
    }
    if sent &- since.sent > CongestionPolicy.memory { since = (sent, retransmitted) }
    return false
  }

  /// True if BBR should be chosen again now.
  ///
  /// - Parameters:
  ///   - window: the congestion window that the connection has, in octets.
  ///   - needed: bandwidth x delay. A window that has not reached it is BBR's to open, from a model that must not be thrown away; and one that BBR has just closed comes back by itself.
  ///   - isIdle: nothing is under way.
  package mutating func renews(window: Int, needed: Int, isIdle: Bool, at now: Instant) -> Bool {
    let pause = isIdle ? CongestionPolicy.idleRenewal : CongestionPolicy.renewal
    guard isPaced, control == .bbr, window >= needed, now - renewed >= pause else { return false }
    renewed = now
    return true
  }
}
