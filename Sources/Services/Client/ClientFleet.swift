import Authentication
import Carriers
import Control
import Flows
import Logging
import NIOCore
import NIOPosix
import Sockets
import Vocabulary

/// Many sessions with one machine in one process, each as a client of its own has it: the load of a bench.
package final class ClientFleet: Sendable {
  /// Sessions or flows that are being opened at once on each loop: what a busy morning does, and fewer than a listener's backlog.
  static let window = 128

  private let key: EndpointKey
  private let machine: MachineID
  private let batches: [NIOLoopBound<Batch>]
  private let loops: [any EventLoop]

  package struct Opened: Sendable {
    package var count = 0
    /// Each reason once.
    package var failures: [String: Int] = [:]
  }

  package init(_ count: Int, machine: MachineID, agent: Endpoint, keyFile: String, loops group: any EventLoopGroup, logger: Logger)
    async throws
  {
    FileLimit.raise()
    let key = try EndpointKey(contentsOf: keyFile)
    self.key = key
    self.machine = machine
    let loops = Array(group.makeIterator())
    var batches: [NIOLoopBound<Batch>] = []
    for (index, loop) in loops.enumerated() {
      let share = Self.share(count, index, loops.count)
      batches.append(
        try await loop.submit {
          let sessions = (0..<share).map { _ in
            ClientSession(
              machine: machine, agent: agent, key: key, certificates: nil, carrierWindow: nil, limits: FlowLimits(), loop: loop,
              logger: logger)
          }
          return NIOLoopBound(Batch(sessions, loop: loop), eventLoop: loop)
        }.get())
    }
    self.batches = batches
    self.loops = loops
  }

  package func open() async throws -> Opened { try await onEach { $1.open() } }

  /// So many flows in all, to these ports of the machine in turn, shared out among the first so many sessions. Their applications are quiet.
  package func openFlows(_ count: Int, to ports: [UInt16], inFirst sessions: Int) async throws -> Opened {
    let (machine, loops) = (machine, loops.count)
    return try await onEach { index, batch in
      batch.openFlows(Self.share(count, index, loops), machine, ports, inFirst: Self.share(sessions, index, loops))
    }
  }

  /// What one of so many loops gets of a count.
  private static func share(_ count: Int, _ index: Int, _ loops: Int) -> Int { count / loops + (index < count % loops ? 1 : 0) }

  package func count() async throws -> (sessions: Int, flows: Int) {
    var sum = (sessions: 0, flows: 0)
    for (batch, loop) in zip(batches, loops) {
      let (sessions, flows) = try await loop.submit { batch.value.count }.get()
      sum = (sum.sessions + sessions, sum.flows + flows)
    }
    return sum
  }

  /// GO for the first so many sessions at once. The time from GO to the agent's confirmation of each that has moved within the limit.
  package func move(_ count: Int, to agent: Endpoint, epoch: UInt64, limit: TimeSpan) async throws -> [TimeSpan] {
    let token = key.sign(
      GoToken(machine: machine, epoch: epoch, agent: agent, path: .direct, expires: Clock.secondsSince1970() + 600))
    var futures: [EventLoopFuture<[TimeSpan]>] = []
    for (index, (batch, loop)) in zip(batches, loops).enumerated() {
      let share = Self.share(count, index, loops.count)
      futures.append(loop.flatSubmit { batch.value.move(share, by: token, limit: limit) })
    }
    var times: [TimeSpan] = []
    for future in futures { times += try await future.get() }
    return times
  }

  package func close() async throws {
    for (batch, loop) in zip(batches, loops) { try await loop.submit { for session in batch.value.sessions { session.close() } }.get() }
  }

  private func onEach(_ work: @escaping @Sendable (Int, Batch) -> EventLoopFuture<Opened>) async throws -> Opened {
    var sum = Opened()
    let futures = zip(batches, loops).enumerated().map { index, place in place.1.flatSubmit { work(index, place.0.value) } }
    for future in futures {
      let part = try await future.get()
      sum.count += part.count
      sum.failures.merge(part.failures, uniquingKeysWith: +)
    }
    return sum
  }

  /// The sessions of one loop.
  fileprivate final class Batch {
    let sessions: [ClientSession]
    private let loop: any EventLoop

    init(_ sessions: [ClientSession], loop: any EventLoop) {
      self.sessions = sessions
      self.loop = loop
    }

    var count: (Int, Int) { (sessions.count { $0.isOpen }, sessions.reduce(0) { $0 + ($1.driver?.hub.count ?? 0) }) }

    func open() -> EventLoopFuture<Opened> {
      Turns(sessions.count, loop: loop) { [sessions] number, done in
        sessions[number].open().assumeIsolated().whenComplete { result in
          if case .failure(let error) = result { done("\(error)") } else { done(nil) }
        }
      }.run()
    }

    func openFlows(_ count: Int, _ machine: MachineID, _ ports: [UInt16], inFirst share: Int) -> EventLoopFuture<Opened> {
      Turns(share > 0 ? count : 0, loop: loop) { [sessions] number, done in
        guard let driver = sessions[number % share].driver else { return done("no session") }
        do throws(FlowRefusal) {
          let target = FlowTarget(host: machine.text, port: ports[number % ports.count])
          _ = try driver.hub.open(target) { refusal in done(refusal.map { "\($0)" }) }
        } catch {
          done("\(error)")
        }
      }.run()
    }

    func move(_ count: Int, by token: GoToken, limit: TimeSpan) -> EventLoopFuture<[TimeSpan]> {
      let promise = loop.makePromise(of: [TimeSpan].self)
      var times: [TimeSpan] = []
      var isDone = false
      func finish() {
        guard !isDone else { return }
        isDone = true
        promise.succeed(times)
      }
      guard count > 0 else {
        finish()
        return promise.futureResult
      }
      let began = NIODeadline.now()
      for session in sessions.prefix(count) {
        session.report = { report in
          guard case .moved(_, token.epoch, _) = report else { return }
          times.append(.nanoseconds((.now() - began).nanoseconds))
          if times.count == count { finish() }
        }
        session.follow(.go(migration: MigrationID("bench"), token: token))
      }
      let finishing = NIOLoopBound(finish, eventLoop: loop)
      loop.scheduleTask(in: .nanoseconds(limit.nanoseconds)) { finishing.value() }
      return promise.futureResult
    }
  }

  /// Work that ends later, so much of it at once.
  private final class Turns {
    private let count: Int
    private let promise: EventLoopPromise<Opened>
    private let work: (Int, @escaping (String?) -> Void) -> Void
    private var next = 0
    private var pending = 0
    private var opened = Opened()

    init(_ count: Int, loop: any EventLoop, _ work: @escaping (Int, @escaping (String?) -> Void) -> Void) {
      self.count = count
      self.work = work
      promise = loop.makePromise()
    }

    func run() -> EventLoopFuture<Opened> {
      fill()
      return promise.futureResult
    }

    private func fill() {
      while pending < ClientFleet.window, next < count {
        pending += 1
        next += 1
        work(next - 1) { failure in
          self.pending -= 1
          if let failure { self.opened.failures[failure, default: 0] += 1 } else { self.opened.count += 1 }
          self.fill()
        }
      }
      if pending == 0, next == count { promise.succeed(opened) }
    }
  }
}
