import Vocabulary

/// The rate of a path from one short train of octets: how far the path's slowest link spread them out.
///
/// A train on a TCP connection comes in bursts, one for each round trip of its congestion window's growth; the gaps between the bursts tell of
/// TCP, not of the path. So the train is cut at the gaps, and the longest burst counts: its octets after the first read, over the time that they took
/// (Jain and Dovrolis 2002, packet trains).
package struct TrainDispersion: Sendable {
  /// Reads of one train that are kept: 256 KiB in segments of 1,448 octets is 182.
  package static let maximumReads = 512
  /// A burst with fewer octets behind its first read is too short to tell a rate from a coincidence: 12 segments of 1,448.
  package static let minimumOctets = 16_384
  /// And one that took less time shows how fast the kernel hands out what it had, not how fast the path brought it.
  package static let minimumSpan = TimeSpan.microseconds(100)

  private var reads: [(octets: Int, at: Instant)] = []

  package init() {}

  package mutating func add(octets: Int, at now: Instant) {
    if reads.count < TrainDispersion.maximumReads { reads.append((octets, now)) }
  }

  /// Nil if no burst was long enough. `roundTrip` is the path's.
  package func rate(roundTrip: TimeSpan) -> BitRate? {
    // A window's last octet and the next window's first are most of a round trip apart while the window is too small, and close when it is not.
    let gap = max(roundTrip / 4, .milliseconds(2 as Int64))
    var best: (octets: Int, span: TimeSpan) = (0, .zero)
    var start = 0
    while start < reads.count {
      var end = start
      var octets = 0
      while end + 1 < reads.count, reads[end + 1].at - reads[end].at < gap {
        end += 1
        octets += reads[end].octets
      }
      if octets > best.octets { best = (octets, reads[end].at - reads[start].at) }
      start = end + 1
    }
    guard best.octets >= TrainDispersion.minimumOctets, best.span >= TrainDispersion.minimumSpan else { return nil }
    return BitRate(bitsPerSecond: Double(best.octets) * 8 / best.span.seconds)
  }
}
