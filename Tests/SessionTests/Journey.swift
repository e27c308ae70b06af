import Agent
import Authentication
import Client
import Control
import Foundation
import LinuxNetwork
import Logging
import NIOPosix
import TestSupport
import Testing
import Vocabulary

/// An agent, a client, and for each of them a controller that the test plays. Between the two stand three wires, each the way to the agent at a place of its own:
/// 127.0.0.2, 127.0.0.3 and 127.0.0.4, all with the same port.
struct Journey: Sendable {
  let wires: [Wire]
  /// Where the agent listens, on 127.0.0.1.
  let agentPort: UInt16
  let key: EndpointKey
  let keyFile: String
  /// What the controller tells the client, and the agent.
  let client: ControllerDouble
  let agent: ControllerDouble
  let socks: UInt16
  /// What agent and client log.
  let log: Inbox<String>

  static func address(_ place: Int) -> IPAddress { IPAddress("127.0.0.\(place + 2)")! }
  var port: UInt16 { wires[0].port }
  func place(_ place: Int) -> Endpoint { Endpoint(address: Self.address(place), port: port) }

  struct Options: Sendable {
    /// Where the client looks first; nil for the first place.
    var start: Int?
    /// Places whose wires are down from the beginning.
    var down: Set<Int> = []
    /// Told to the client before it has a session.
    var firstGo: Int?
  }

  static func with(_ options: Options = Options(), _ body: @escaping @Sendable (Journey) async throws -> Void) async throws {
    let keyFile = try Road.keyFile()
    defer { try? FileManager.default.removeItem(atPath: keyFile) }
    let key = try EndpointKey(contentsOf: keyFile)
    let log = Inbox<String>()
    let (ofAgent, ofClient) = (try await ControllerDouble.start(), try await ControllerDouble.start())
    let agent = AgentService(
      settings: AgentSettings(
        listen: Endpoint("127.0.0.1:0")!, keyFile: keyFile, machine: "vm", controller: ofAgent.endpoint,
        addresses: [IPAddress("127.0.0.1")!]), logger: LogBook.logger(log))
    try await running({ try await agent.run(ready: $0) }) { (listening: Endpoint) in
      let wires = try Self.wires(to: listening.port)
      for place in options.down { wires[place].setDown(true) }
      let client = ClientService(
        settings: ClientSettings(
          node: "client", site: "access",
          machines: [.init(name: "vm", agent: Endpoint(address: Self.address(options.start ?? 0), port: wires[0].port))], keyFile: keyFile,
          socks: Endpoint("127.0.0.1:0")!, controller: ofClient.endpoint), logger: LogBook.logger(log))
      if let place = options.firstGo {
        Task {
          _ = try await ofClient.requests.next { $0.method == .GET }
          let token = GoToken(
            machine: "vm", epoch: 1, agent: Endpoint(address: Self.address(place), port: wires[0].port), path: .direct,
            expires: 9_000_000_000)
          try await ofClient.order(.go(migration: "m", token: key.sign(token)))
        }
      }
      try await running({ try await client.run(ready: $0) }) { (entrances: ClientEntrances) in
        if options.firstGo == nil { _ = try await ofClient.requests.next { $0.method == .GET } }
        _ = try await ofAgent.requests.next { $0.method == .GET }
        try await body(
          Journey(
            wires: wires, agentPort: listening.port, key: key, keyFile: keyFile, client: ofClient, agent: ofAgent,
            socks: try #require(entrances.socks).port, log: log))
      }
    }
    try await ofAgent.kill()
    try await ofClient.kill()
  }

  /// Three wires that have one port in common.
  private static func wires(to target: UInt16) throws -> [Wire] {
    for _ in 0..<20 {
      let first = try Wire(to: target, at: 0x7f00_0002)
      if let second = try? Wire(to: target, at: 0x7f00_0003, port: first.port),
        let third = try? Wire(to: target, at: 0x7f00_0004, port: first.port)
      {
        return [first, second, third]
      }
    }
    throw Socket.Failure(call: "three loopback addresses with one free port", code: 0)
  }

  /// Runs `body` while the service runs, with what it said when it was ready, and ends the service after it.
  static func running<Ready: Sendable>(
    _ run: @escaping @Sendable (@escaping @Sendable (Ready) -> Void) async throws -> Void,
    _ body: @escaping @Sendable (Ready) async throws -> Void
  ) async throws {
    let ready = Inbox<Ready>()
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask { try await run { ready.put($0) } }
      group.addTask { try await body(try await ready.next()) }
      defer { group.cancelAll() }
      try await group.next()  // the body's end, or a failed start
    }
  }

  // MARK: Orders and reports

  func token(_ place: Int, epoch: UInt64, path: PathChoice = .direct, expires: Int64 = 9_000_000_000) -> GoToken {
    key.sign(GoToken(machine: "vm", epoch: epoch, agent: self.place(place), path: path, expires: expires))
  }

  func prepare(_ place: Int, path: PathChoice = .direct) async throws {
    try await agent.order(.prepare(migration: "m", machine: "vm", agent: self.place(place), path: .direct))
    try await client.order(.prepare(migration: "m", machine: "vm", agent: self.place(place), path: path))
    try await reported(by: agent) { $0 == .announced(machine: "vm", agent: self.place(place), sessions: 1) }
  }

  func go(_ place: Int, epoch: UInt64, path: PathChoice = .direct) async throws {
    try await client.order(.go(migration: "m", token: token(place, epoch: epoch, path: path)))
  }

  func reported(by node: ControllerDouble, _ fits: @escaping (NodeReport) -> Bool) async throws {
    _ = try await node.requests.next { request in
      request.isReports && ((try? request.json([TimedReport].self))?.contains { fits($0.report) } ?? false)
    }
  }

  func moved(epoch: UInt64) async throws {
    try await reported(by: client) { if case .moved("vm", epoch, _) = $0 { true } else { false } }
  }

  func logged(_ text: String) async throws { _ = try await log.next { $0.contains(text) } }
}

/// A flow whose octets are asked for in pieces, each compared with what they must be.
final class Flow: Sendable {
  private let application: Socket

  /// Opens it through the client's SOCKS entrance, to a service of this process that answers a count with as many octets of a pattern.
  convenience init(_ journey: Journey) async throws { try await self.init(socks: journey.socks) }

  /// - Parameters: the network namespaces of the application and of the service; nil for the test's own.
  init(socks: UInt16, application: Namespace? = nil, service: Namespace? = nil) async throws {
    let (listener, port) = try await onThread {
      if let service { try CurrentThread.enter(service) }
      return try Socket.listen()
    }
    self.application = try await onThread {
      if let application { try CurrentThread.enter(application) }
      let application = try Socket.connect(socks)
      guard try application.socks(to: "vm", port) == 0 else { throw Socket.Failure(call: "open a flow", code: 0) }
      return application
    }
    Flow.serve(listener)
  }

  private static func serve(_ service: Socket) {
    Task.detached {
      try? await onThread {
        let peer = try service.accept()
        while true {
          let question = try Flow.readForever(peer, 5)
          try peer.write(pattern(question[..<4].reduce(0) { $0 << 8 | Int($1) }, seed: UInt64(question[4])))
        }
      }
    }
  }

  /// Questions come one at a time, so no more than this one can be read.
  private static func readForever(_ peer: Socket, _ count: Int) throws -> [UInt8] {
    var octets: [UInt8] = []
    while octets.count < count {
      let more = try peer.readForever()
      guard !more.isEmpty else { throw Socket.Failure(call: "end", code: 0) }
      octets += more
    }
    return octets
  }

  func ask(_ count: Int, _ seed: UInt8 = 1) throws {
    try application.write([24, 16, 8, 0].map { UInt8(truncatingIfNeeded: count >> $0) } + [seed])
  }

  /// True if exactly the octets come that were asked for.
  func get(_ count: Int, _ seed: UInt8 = 1) async throws -> Bool {
    let application = self.application
    return try await onThread { try application.read(exactly: count) } == pattern(count, seed: UInt64(seed))
  }

  /// A question and its answer, both over what carries the session now.
  func works(_ seed: UInt8 = 9) async throws -> Bool {
    try ask(1_000, seed)
    return try await get(1_000, seed)
  }
}

/// A logger whose lines a test can wait for.
enum LogBook {
  static func logger(_ lines: Inbox<String>) -> Logger {
    Logger(label: "test") { _ in Handler(lines: lines) }
  }

  private struct Handler: LogHandler {
    let lines: Inbox<String>
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.debug

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
      lines.put("\(event.message)")
      if ProcessInfo.processInfo.environment["LONGHAUL_TEST_LOG"] != nil { print("LOG \(event.message) \(event.metadata ?? [:])") }
    }
  }
}
