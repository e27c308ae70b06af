import Vocabulary

/// One emulated wide-area link between two namespaces.
package struct LinkSettings: Codable, Sendable, Hashable {
  package struct End: Codable, Sendable, Hashable {
    package var namespace: String
    /// The TUN device that is made there; at most 15 octets.
    package var device: String

    package init(namespace: String, device: String) {
      self.namespace = namespace
      self.device = device
    }
  }

  package var name: String
  package var a: End
  package var z: End
  /// One way.
  package var delay: TimeSpan
  /// Zero: without limit.
  package var rate: BitRate
  /// Octets that may wait for the wire in each direction.
  package var queue: ByteCount
  /// Of each segment, from 0 to 1.
  package var loss: Double
  package var seed: UInt64

  package init(name: String, a: End, z: End, delay: TimeSpan, rate: BitRate, queue: ByteCount, loss: Double, seed: UInt64) {
    self.name = name
    self.a = a
    self.z = z
    self.delay = delay
    self.rate = rate
    self.queue = queue
    self.loss = loss
    self.seed = seed
  }
}

/// What one direction of a link did.
package struct LinkStatistics: Codable, Sendable, Hashable {
  package var packets = 0
  package var segments = 0
  package var octets = 0
  package var droppedByQueue = 0
  package var droppedByLoss = 0
  /// The delay line was full, which its size should make impossible.
  package var droppedByMemory = 0
  /// Not IPv4.
  package var droppedAsForeign = 0
  package var failedWrites = 0
  package var meanLatenessMicroseconds = 0.0
  package var maximumLatenessMicroseconds = 0.0
}

package struct LinkReport: Codable, Sendable, Hashable {
  package var name: String
  package var aToZ: LinkStatistics
  package var zToA: LinkStatistics
  /// False: SCHED_FIFO was not allowed, and deadlines are less punctual.
  package var isPunctual: Bool
}
