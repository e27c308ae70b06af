import NIOCore
import Synchronization
import Vocabulary

/// Deals one rate out to the sockets of many flows, on any number of event loops: after each portion a socket is told when it may go on.
///
/// A portion books its octets behind all that was booked before, and its socket waits until they have had their time. So each flow has one portion in turn,
/// whichever loop it lives on, and one that asks for little waits for little.
package final class ReadGate: Sendable {
  /// So much may come at once after a pause: a page at 20 Mbit/s.
  private static let burst = 0.1
  /// At 10 Mbit/s a flow waits 50 ms for each other one that is busy.
  package static let portion = 64 << 10

  private struct State {
    /// Octets a second; 0: the gate is open.
    var rate = 0.0
    /// What has been booked will have had its time then, in seconds of the monotonic clock.
    var booked = 0.0
  }

  private let state = Mutex(State())

  package init(_ rate: BitRate?) { setRate(rate) }

  /// From the next read on.
  package func setRate(_ rate: BitRate?) {
    state.withLock { state in
      state.rate = (rate?.bitsPerSecond ?? 0) / 8
      state.booked = 0
    }
  }

  /// So many octets pass now. When their socket may go on; nil: at once.
  package func take(_ octets: Int, at now: NIODeadline) -> NIODeadline? {
    let seconds = Double(now.uptimeNanoseconds) / 1e9
    let next = state.withLock { state -> Double in
      guard state.rate > 0 else { return 0 }
      state.booked = max(state.booked, seconds - ReadGate.burst) + Double(octets) / state.rate
      return state.booked
    }
    return next > seconds ? .uptimeNanoseconds(UInt64(next * 1e9)) : nil
  }
}
