/// Which congestion control a tunnel connection has.
///
/// A connection that is paced below its path's rate fills no queue, so on a path without loss cubic never has a reason to shrink its window. BBR would shrink it
/// every ten seconds all the same, to four segments for a round trip and 200 ms, to measure the round trip (PROBE_RTT): at 300 ms that is a gap of half a second
/// in a download. Where segments do get lost, cubic takes each for congestion, and at 300 ms and 0.1 % would be left with 2 Mbit/s; BBR is not. So a paced connection begins
/// with cubic, and changes for good to BBR when segments are lost. Without a rate limit, BBR finds the rate.
struct CongestionPolicy: Sendable {
  enum Control: String, Sendable {
    case cubic, bbr
  }

  /// Retransmissions within `memory` that end cubic. One or two may be a route that changed.
  static let losses: UInt32 = 3
  /// In segments sent: 86,000 are 10 s at 100 Mbit/s.
  static let memory: UInt32 = 86_000

  private(set) var control: Control
  private var since: (sent: UInt32, retransmitted: UInt32) = (0, 0)

  /// - Parameter keepsIdleWindows: the kernel does not close the window of an idle connection (tcp_slow_start_after_idle = 0). Where it does, only BBR
  ///   comes back with what it knew, so warmed connections take it.
  init(isPaced: Bool, keepsIdleWindows: Bool) { control = isPaced && keepsIdleWindows ? .cubic : .bbr }

  /// What TCP counts since the connection began, modulo 2^32. True if the control has just changed.
  mutating func observe(sent: UInt32, retransmitted: UInt32) -> Bool {
    guard control == .cubic else { return false }
    if retransmitted &- since.retransmitted >= CongestionPolicy.losses {
      control = .bbr
      return true
    }
    if sent &- since.sent > CongestionPolicy.memory { since = (sent, retransmitted) }
    return false
  }
}
