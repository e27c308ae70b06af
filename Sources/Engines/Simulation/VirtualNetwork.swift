import Vocabulary

/// A set of one-way pipes under one clock.
package struct VirtualNetwork<Payload: Sendable>: Sendable {
  package struct PipeID: Hashable, Sendable {
    let value: Int
  }

  package struct Delivery: Sendable {
    package var pipe: PipeID
    package var payload: Payload
  }

  private struct Pipe: Sendable {
    enum Health { case well, silent, cut }
    var delay: TimeSpan
    var rate: BitRate
    var health = Health.well
    /// When the last octet handed in so far will have left.
    var busyUntil: Instant
  }

  private struct Arrival: Sendable {
    var at: Instant
    var number: Int
    var pipe: PipeID
    var payload: Payload
  }

  package private(set) var now: Instant
  private var pipes: [Pipe] = []
  /// Ascending by time, then by the order of sending.
  private var arrivals: [Arrival] = []
  private var sent = 0

  package init(startingAt now: Instant = .zero) { self.now = now }

  /// A new pipe. A rate of zero is no limit.
  package mutating func makePipe(delay: TimeSpan, rate: BitRate = BitRate(bitsPerSecond: 0)) -> PipeID {
    pipes.append(Pipe(delay: delay, rate: rate, busyUntil: now))
    return PipeID(value: pipes.count - 1)
  }

  /// - Parameter lateness: how much longer than others this one takes; it may be overtaken then.
  package mutating func send(_ payload: Payload, octets: Int, on id: PipeID, lateness: TimeSpan = .zero) {
    guard pipes[id.value].health == .well else { return }
    let start = max(now, pipes[id.value].busyUntil)
    pipes[id.value].busyUntil = start + pipes[id.value].rate.time(for: ByteCount(octets))
    let arrival = Arrival(at: pipes[id.value].busyUntil + pipes[id.value].delay + lateness, number: sent, pipe: id, payload: payload)
    sent += 1
    var index = arrivals.count
    while index > 0, arrivals[index - 1].at > arrival.at { index -= 1 }
    arrivals.insert(arrival, at: index)
  }

  /// The pipe is gone, and with it what was under way.
  package mutating func cut(_ id: PipeID) {
    pipes[id.value].health = .cut
    arrivals.removeAll { $0.pipe == id }
  }

  /// The pipe swallows what is sent from now on; what is under way still arrives.
  package mutating func silence(_ id: PipeID) { pipes[id.value].health = .silent }

  package func isCut(_ id: PipeID) -> Bool { pipes[id.value].health == .cut }

  /// The next payload that arrives at or before `limit`; the clock moves to its arrival. Nil: the clock has moved to `limit` (or stands still, if there is none).
  package mutating func next(notAfter limit: Instant?) -> Delivery? {
    if let first = arrivals.first, limit.map({ first.at <= $0 }) ?? true {
      arrivals.removeFirst()
      now = max(now, first.at)
      return Delivery(pipe: first.pipe, payload: first.payload)
    }
    if let limit { now = max(now, limit) }
    return nil
  }

  /// Moves the clock ahead at once, as for a machine that was paused.
  package mutating func jump(by span: TimeSpan) { now = now + span }

  package var isQuiet: Bool { arrivals.isEmpty }
}
