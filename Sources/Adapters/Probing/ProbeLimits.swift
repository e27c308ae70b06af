import Vocabulary

/// Every size, wait and retry of probing.
package struct ProbeLimits: Sendable, Hashable {
  /// The longest train that may be asked for. What it costs a path of 100 Mbit/s is 21 ms.
  package static let maximumTrain = 256 << 10
  /// Places that one node probes; the settings name the sites, so nothing right comes near it.
  package static let maximumTargets = 64
  /// Echoes of one connection that are under way: a round trip of 3 s at one every 100 ms. When they are all out none is sent.
  package static let maximumOutstanding = 32
  /// Ten a second is as often as a decision can use.
  package static let shortestInterval = TimeSpan.milliseconds(100 as Int64)

  // The prober's.
  /// For the TCP handshake: a SYN that was lost is sent again after 1 s (RFC 6298), so one loss fits at 2 s of round trip.
  package var connect = TimeSpan.seconds(3 as Int64)
  /// A handshake that took this long has lost its SYN: it tells of TCP's timer, not of the path (RFC 6298 section 2.1).
  package var longestHandshake = TimeSpan.seconds(1 as Int64)
  /// A probe is lost after the larger of this and `lossFactor` smoothed round trips; with less, every stall of a host would count as loss.
  package var shortestLoss = TimeSpan.seconds(1 as Int64)
  package var lossFactor: Int64 = 4
  /// Between two trains.
  package var trainInterval = TimeSpan.seconds(10 as Int64)
  /// A whole train; octets that keep coming this slowly (48 KiB in 20 s: 20 kbit/s) are no rate worth knowing.
  package var trainLimit = TimeSpan.seconds(20 as Int64)
  /// The first train of a path, whose rate is unknown: 45 segments, in bursts of 10, 20 and 15; the middle one is long enough for `TrainDispersion`.
  package var firstTrain = 64 << 10
  /// Later ones take this long at the last rate, within these sizes. The least is what still holds a whole second burst of 20 segments; the most
  /// holds a third one of 40 and takes 10 ms at 100 Mbit/s.
  package var trainSpan = TimeSpan.milliseconds(100 as Int64)
  package var smallestTrain = 48 << 10
  package var largestTrain = 128 << 10
  /// Between two tries to reach a target: 500 ms, doubled to at most 5 s, each with up to a quarter more by chance.
  package var firstPause = TimeSpan.milliseconds(500 as Int64)
  package var longestPause = TimeSpan.seconds(5 as Int64)

  // The responder's.
  /// Connections at once: 64 nodes, each with four in a bad hour. What it costs is a descriptor and about 4 KB for each.
  package var maximumConnections = 256
  /// Without a request: six intervals of the slowest prober that makes sense (10 s).
  package var idle = TimeSpan.seconds(60 as Int64)
  /// Trains a second, all connections together: 16 x 256 KiB x 8 = 34 Mbit/s at most, so that whoever asks cannot make this port a flood.
  package var trainsPerSecond = 16

  package init() {}
}
