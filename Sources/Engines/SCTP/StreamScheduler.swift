import Vocabulary

/// How the streams of an association share what may be sent (RFC 8260 section 3). Without I-DATA a message that has begun is sent to its end; with it, a turn is one chunk.
package enum StreamScheduler: Sendable, Hashable {
  /// Messages in the order in which they were given (3.1).
  case firstCome
  /// A message of each stream in turn (3.2).
  case roundRobin
  /// As much of one stream as a packet takes, then the next stream (3.3).
  case roundRobinPerPacket
  /// The stream of the lowest number set by `setWeight`; equal ones in turn (3.4).
  case priority
  /// The same octets for each stream that has any (3.5): a stream that says little waits for at most one turn of each other one.
  case fairCapacity
  /// Octets in proportion to `setWeight` (3.6).
  case weightedFair
}

/// How long a message is tried (RFC 3758 and 7496). A peer without FORWARD-TSN gets every message that has begun; one that has not may still be dropped in time.
package enum Reliability: Sendable, Hashable {
  case full
  /// Not after this moment (timed reliability).
  case until(Instant)
  /// Sent again so often, and no more.
  case retransmissions(UInt16)
}
