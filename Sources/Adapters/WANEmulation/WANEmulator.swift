import Glibc
import LinuxNetwork
import Synchronization
import Vocabulary

/// Runs links, one thread each, until it is told to stop.
package final class WANEmulator: Sendable {
  private let links: [RunningLink]

  /// Makes the devices of every link; they are there, and carry packets, when this returns.
  package init(_ settings: [LinkSettings]) throws {
    var links: [RunningLink] = []
    do {
      for link in settings { links.append(try RunningLink(link)) }
    } catch {
      for link in links { _ = link.stop() }
      throw error
    }
    self.links = links
  }

  /// What has been sent into each link so far, both directions, as a wire would count it. Octets that have been lost under way are in it.
  package var octets: [(aToZ: Int, zToA: Int)] { links.map(\.octets) }

  /// Ends the links and says what they did.
  package func stop() -> [LinkReport] { links.map { $0.stop() } }
}

/// One link and its thread.
private final class RunningLink: Sendable {
  private let end: Bell
  private struct State: Sendable {
    var started: Result<Void, SystemError>?
    var report: LinkReport?
  }
  private let state = Mutex(State())
  private let started: Bell
  private let ended: Bell
  /// Written by the link's thread alone.
  private let octetsAToZ = Atomic<Int>(0)
  private let octetsZToA = Atomic<Int>(0)

  var octets: (aToZ: Int, zToA: Int) { (octetsAToZ.load(ordering: .relaxed), octetsZToA.load(ordering: .relaxed)) }

  init(_ settings: LinkSettings) throws {
    end = try Bell()
    started = try Bell()
    ended = try Bell()
    try startThread { [self] in run(settings) }
    started.wait()
    if case .failure(let error)? = state.withLock({ $0.started }) { throw error }
  }

  func stop() -> LinkReport {
    // Asked again, it says the same.
    if let report = state.withLock({ $0.report }) { return report }
    end.ring()
    ended.wait()
    return state.withLock { $0.report } ?? LinkReport(name: "", aToZ: LinkStatistics(), zToA: LinkStatistics(), isPunctual: false)
  }

  private func run(_ settings: LinkSettings) {
    defer { ended.ring() }
    do throws(SystemError) {
      let a = try TunDevice(settings.a.device, in: Namespace(settings.a.namespace), offload: true)
      let z = try TunDevice(settings.z.device, in: Namespace(settings.z.namespace), offload: true)
      state.withLock { $0.started = .success(()) }
      started.ring()
      carry(settings, a, z)
    } catch {
      state.withLock { $0.started = .failure(error) }
      started.ring()
    }
  }

  private func carry(_ settings: LinkSettings, _ a: borrowing TunDevice, _ z: borrowing TunDevice) {
    let isPunctual = CurrentThread.becomePunctual()
    var aToZ = LinkDirection(from: a.descriptor, to: z.descriptor, settings, seed: settings.seed &* 2)
    var zToA = LinkDirection(from: z.descriptor, to: a.descriptor, settings, seed: settings.seed &* 2 &+ 1)
    while true {
      let now = monotonicNow()
      aToZ.deliver(at: now)
      zToA.deliver(at: now)
      // A burst of 64 packets, then deliveries again: neither starves the other.
      let count = aToZ.takeIn(atMost: 64) + zToA.takeIn(atMost: 64)
      if count > 0 {
        octetsAToZ.store(aToZ.octets, ordering: .relaxed)
        octetsZToA.store(zToA.octets, ordering: .relaxed)
      }
      if count >= 32 { continue }
      let due = [aToZ.nextDue, zToA.nextDue].compactMap { $0 }.min()
      let rest = due.map { $0 - monotonicNow() }
      if let rest, rest <= .zero { continue }
      if waitForWork(a.descriptor, z.descriptor, end.descriptor, for: rest) { break }
    }
    let report = LinkReport(name: settings.name, aToZ: aToZ.finalStatistics, zToA: zToA.finalStatistics, isPunctual: isPunctual)
    state.withLock { $0.report = report }
  }
}

/// One direction of a link.
private struct LinkDirection: ~Copyable {
  private let input: Int32
  private let output: Int32
  private let settings: LinkSettings
  private var line = DelayLine()
  private var random: SeededGenerator
  private let lossThreshold: UInt64
  private var wireIsFree = Instant.zero
  private var statistics = LinkStatistics()
  private var totalLateness: Int64 = 0
  private var delivered = 0
  private let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: DelayLine.longestPacket, alignment: 64)

  init(from input: Int32, to output: Int32, _ settings: LinkSettings, seed: UInt64) {
    self.input = input
    self.output = output
    self.settings = settings
    random = SeededGenerator(seed: seed)
    lossThreshold = settings.loss >= 1 ? .max : UInt64(settings.loss * 18_446_744_073_709_549_568)  // the largest double below 2^64
  }

  deinit { buffer.deallocate() }

  var nextDue: Instant? { line.nextDue }
  var octets: Int { statistics.octets }

  var finalStatistics: LinkStatistics {
    var final = statistics
    if delivered > 0 { final.meanLatenessMicroseconds = Double(totalLateness) / Double(delivered) / 1e3 }
    return final
  }

  mutating func deliver(at now: Instant) {
    var lateness = totalLateness
    var count = delivered
    var maximum = statistics.maximumLatenessMicroseconds
    var failures = 0
    let output = self.output
    while line.takeDue(
      at: now,
      { bytes, late in
        lateness += late.nanoseconds
        count += 1
        maximum = max(maximum, Double(late.nanoseconds) / 1e3)
        if write(output, bytes.baseAddress, bytes.count) < 0 { failures += 1 }
      })
    {}
    totalLateness = lateness
    delivered = count
    statistics.maximumLatenessMicroseconds = maximum
    statistics.failedWrites += failures
  }

  /// Reads packets that have come in; how many it were.
  mutating func takeIn(atMost limit: Int) -> Int {
    for count in 0..<limit {
      let length = read(input, buffer.baseAddress, buffer.count)
      guard length > 0 else { return count }
      take(UnsafeRawBufferPointer(rebasing: buffer[..<length]), at: monotonicNow())
    }
    return limit
  }

  private mutating func take(_ bytes: UnsafeRawBufferPointer, at now: Instant) {
    guard let shape = Superpacket.shape(of: bytes) else {
      statistics.droppedAsForeign += 1
      return
    }
    let start = max(wireIsFree, now)
    if settings.rate.bitsPerSecond > 0 {
      let waiting = settings.rate.bytes(in: start - now).octets
      if waiting > 0, waiting + shape.wireOctets > settings.queue.octets {
        statistics.droppedByQueue += shape.segments
        return
      }
    }
    wireIsFree = start + settings.rate.time(for: ByteCount(shape.wireOctets))
    statistics.packets += 1
    statistics.segments += shape.segments
    statistics.octets += shape.wireOctets
    guard lossThreshold > 0 else { return keep(bytes, due: wireIsFree + settings.delay) }
    let runs = Superpacket.survivors(of: shape.segments) { random.next() < lossThreshold }
    let survived = runs.reduce(0) { $0 + $1.count }
    statistics.droppedByLoss += shape.segments - survived
    if survived == shape.segments { return keep(bytes, due: wireIsFree + settings.delay) }
    let whole = Superpacket(Array(bytes))
    let segmentTime = settings.rate.time(for: ByteCount(shape.segmentSize + shape.headers))
    for run in runs {
      let sent = run.upperBound == shape.segments ? wireIsFree : start + segmentTime * Int64(run.upperBound)
      whole.part(run, of: shape).bytes.withUnsafeBytes { keep($0, due: sent + settings.delay) }
    }
  }

  private mutating func keep(_ bytes: UnsafeRawBufferPointer, due: Instant) {
    if !line.append(bytes, due: due) { statistics.droppedByMemory += 1 }
  }
}

// MARK: - Helpers

private func monotonicNow() -> Instant {
  var now = timespec()
  clock_gettime(CLOCK_MONOTONIC, &now)
  return Instant(nanoseconds: Int64(now.tv_sec) * 1_000_000_000 + Int64(now.tv_nsec))
}

/// True once the bell `end` has rung.
private func waitForWork(_ a: Int32, _ z: Int32, _ end: Int32, for span: TimeSpan?) -> Bool {
  waitToRead(a, z, end, for: span)
  var check = pollfd(fd: end, events: Int16(POLLIN), revents: 0)
  return poll(&check, 1, 0) > 0
}

private final class Work: Sendable {
  let body: @Sendable () -> Void
  init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

/// Namespaces belong to threads, so each link has one of its own.
private func startThread(_ body: @escaping @Sendable () -> Void) throws {
  var thread = pthread_t()
  let code = pthread_create(
    &thread, nil,
    { argument in
      guard let argument else { return nil }
      Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body()
      return nil
    }, Unmanaged.passRetained(Work(body)).toOpaque())
  guard code == 0 else { throw SystemError("start a thread", code: code) }
  pthread_detach(thread)
}
