import Agent
import Client
import Foundation
import Logging
import Synchronization
import TestSupport
import Testing
import Vocabulary

/// A running agent and client in this process, with a wire between them that a test can cut.
struct Road {
  let wire: Wire
  let agentPort: UInt16
  let entrances: ClientEntrances
  var socks: UInt16 { entrances.socks!.port }

  static let quiet: Logger = {
    var logger = Logger(label: "test")
    logger.logLevel = ProcessInfo.processInfo.environment["LONGHAUL_TEST_LOG"].flatMap(Logger.Level.init(rawValue:)) ?? .error
    return logger
  }()

  static func keyFile(_ line: String = "00112233445566778899aabbccddeeff") throws -> String {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-test-\(UUID().uuidString).key").path
    try (line + "\n").write(toFile: path, atomically: true, encoding: .utf8)
    return path
  }

  /// Runs `body` with an agent and a client, and ends both after it.
  static func with(
    agentKey: String? = nil, clientKey: String? = nil, agentCertificates: String? = nil, clientCertificates: String? = nil,
    forwards: [String] = [], logger: Logger = quiet, agentSettings: (inout AgentSettings) -> Void = { _ in },
    clientSettings: (inout ClientSettings) -> Void = { _ in }, _ body: @escaping @Sendable (Road) async throws -> Void
  ) async throws {
    let agentKeyFile = try keyFile(agentKey ?? "00112233445566778899aabbccddeeff")
    let clientKeyFile = try keyFile(clientKey ?? "00112233445566778899aabbccddeeff")
    defer {
      for path in [agentKeyFile, clientKeyFile] { try? FileManager.default.removeItem(atPath: path) }
    }
    let (agentReady, agentIsReady) = AsyncThrowingStream.makeStream(of: Endpoint.self)
    let (clientReady, clientIsReady) = AsyncThrowingStream.makeStream(of: ClientEntrances.self)
    var ofAgent = AgentSettings(
      listen: Endpoint("127.0.0.1:0")!, keyFile: agentKeyFile, certificates: agentCertificates, machine: "vm",
      addresses: [IPAddress("127.0.0.1")!])
    agentSettings(&ofAgent)
    let agent = AgentService(settings: ofAgent, logger: logger)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        do { try await agent.run { agentIsReady.yield($0) } } catch { agentIsReady.finish(throwing: error); throw error }
      }
      var agents = agentReady.makeAsyncIterator()
      let agentEndpoint = try #require(try await agents.next())
      let wire = try Wire(to: agentEndpoint.port)
      var ofClient = ClientSettings(
        node: "client", machines: [.init(name: "vm", agent: Endpoint("127.0.0.1:\(wire.port)")!)], keyFile: clientKeyFile,
        certificates: clientCertificates, socks: Endpoint("127.0.0.1:0")!, httpConnect: Endpoint("127.0.0.1:0")!,
        forwards: forwards.map { ClientSettings.Forward($0)! },
        connectLimit: .seconds(5.0))
      clientSettings(&ofClient)
      let client = ClientService(settings: ofClient, logger: logger)
      group.addTask {
        do { try await client.run { clientIsReady.yield($0) } } catch { clientIsReady.finish(throwing: error); throw error }
      }
      var clients = clientReady.makeAsyncIterator()
      let entrances = try #require(try await clients.next())
      try await body(Road(wire: wire, agentPort: agentEndpoint.port, entrances: entrances))
      group.cancelAll()
      while let result = await group.nextResult() {
        if case .failure(let error) = result, !(error is CancellationError) { throw error }
      }
    }
  }

  /// One flow, with `up` sent by the application and `down` by the service; returns what each of them got.
  func send(_ up: [UInt8], _ down: [UInt8]) async throws -> (up: [UInt8], down: [UInt8]) {
    let (service, port) = try Socket.listen()
    async let serving: [UInt8] = onThread {
      let peer = try service.accept()
      try peer.write(down)
      peer.endOutput()
      return try peer.readToEnd()
    }
    let application = try Socket.connect(socks)
    #expect(try application.socks(to: "vm", port) == 0)
    async let writing: Void = onThread {
      try application.write(up); application.endOutput()
    }
    let got = try await onThread { try application.readToEnd() }
    try await writing
    return (try await serving, got)
  }
}

/// Octets that differ from their neighbours near and far, so that a lost, doubled or misplaced block shows.
func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
  var random = SeededGenerator(seed: seed)
  var bytes: [UInt8] = []
  bytes.reserveCapacity(count + 8)
  while bytes.count < count { withUnsafeBytes(of: random.next()) { bytes.append(contentsOf: $0) } }
  return Array(bytes.prefix(count))
}

@Suite("A session", .serialized, .timeLimit(.minutes(2)))
struct SessionTests {
  @Test("carries octets both ways, whole and in order", arguments: [1, 1_000, 16_384, 16_385, 5_000_000])
  func bothWays(count: Int) async throws {
    try await Road.with { road in
      let (up, down) = (pattern(count, seed: 1), pattern(count, seed: 2))
      let got = try await road.send(up, down)
      #expect(got.down == down)
      #expect(got.up == up)
    }
  }

  @Test("keeps half-close: a client that has sent everything still gets the answer")
  func halfClose() async throws {
    try await Road.with { road in
      let (service, port) = try Socket.listen()
      async let serving: Void = onThread {
        let peer = try service.accept()
        let question = try peer.readToEnd()
        try peer.write(question.reversed())
        peer.endOutput()
      }
      let application = try Socket.connect(road.socks)
      #expect(try application.socks(to: "vm", port) == 0)
      let answer = try await onThread {
        try application.write(Array("question".utf8))
        application.endOutput()
        return try application.readToEnd()
      }
      try await serving
      #expect(String(decoding: answer, as: UTF8.self) == "noitseuq")
    }
  }

  @Test("passes a RST on as a RST, from the service to the application")
  func reset() async throws {
    try await Road.with { road in
      let (service, port) = try Socket.listen()
      let application = try Socket.connect(road.socks)
      async let serving: Void = onThread {
        let peer = try service.accept()
        _ = try peer.read(exactly: 5)
        peer.reset()
      }
      #expect(try application.socks(to: "vm", port) == 0)
      try application.write(Array("hello".utf8))
      try await serving
      let failure = try await onThread { () -> Int32? in
        do { _ = try application.read(); return nil } catch let failure as Socket.Failure { return failure.code }
      }
      #expect(failure == ECONNRESET)
    }
  }

  @Test("says what is wrong: a refused port, an unknown machine")
  func refusals() async throws {
    try await Road.with { road in
      let port = try Socket.freePort()
      let refused = try Socket.connect(road.socks)
      #expect(try await onThread { try refused.socks(to: "vm", port) } == 5)  // connection refused (RFC 1928 section 6)
      let unknown = try Socket.connect(road.socks)
      #expect(try await onThread { try unknown.socks(to: "nobody", port) } == 4)  // host unreachable
    }
  }

  @Test("survives its carrier: the connection is cut five times in mid-transfer, and no octet is lost or doubled")
  func survives() async throws {
    try await Road.with { road in
      let (service, port) = try Socket.listen()
      let down = pattern(20_000_000, seed: 3)
      let up = pattern(3_000_000, seed: 4)
      let application = try Socket.connect(road.socks)
      #expect(try application.socks(to: "vm", port) == 0)
      let peer = try service.accept()
      async let sending: Void = onThread {
        try peer.write(down)
        peer.endOutput()
      }
      async let serving = onThread { try peer.readToEnd() }
      async let writing: Void = onThread {
        try application.write(up); application.endOutput()
      }
      let got = try await onThread {
        var bytes: [UInt8] = []
        var cuts = 0
        while true {
          let part = try application.read()
          if part.isEmpty { return bytes }
          bytes += part
          if cuts < 5, bytes.count > 3_000_000 * (cuts + 1) {
            cuts += 1
            let before = road.wire.accepted
            road.wire.cut()
            // The session comes back whether or not there is more to read, which may all be here already.
            try road.wire.waitForAccepted(before + 1)
          }
        }
      }
      try await sending
      try await writing
      #expect(got == down)
      #expect(try await serving == up)
      #expect(road.wire.accepted >= 6)
    }
  }

  @Test("a static forward carries what the application says first, too", arguments: [1, 100_000])
  func forwardUp(count: Int) async throws {
    let (service, port) = try Socket.listen()
    let forward = try Socket.freePort()
    try await Road.with(forwards: ["127.0.0.1:\(forward)=vm:\(port)"]) { road in
      let application = try Socket.connect(forward)
      let up = pattern(count, seed: 3)
      async let writing: Void = onThread {
        try application.write(up); application.endOutput()
      }
      let peer = try await onThread { try service.accept() }
      #expect(try await onThread { try peer.readToEnd() } == up)
      try await writing
    }
  }

  @Test("a loopback address means the only machine, as FTP's answer to PASV wants it", arguments: ["127.0.0.1", "localhost"])
  func loopback(host: String) async throws {
    try await Road.with { road in
      let (service, port) = try Socket.listen()
      let application = try Socket.connect(road.socks)
      #expect(try application.socks(to: host, port) == 0)
      let peer = try await onThread { try service.accept() }
      try peer.write([7])
      #expect(try await onThread { try application.read(exactly: 1) } == [7])
    }
  }

  @Test("waits out a network that is away for a while, and goes on")
  func outage() async throws {
    try await Road.with { road in
      let (service, port) = try Socket.listen()
      async let serving: Void = onThread {
        let peer = try service.accept()
        while case let bytes = try peer.readForever(), !bytes.isEmpty { try peer.write(bytes) }
      }
      let application = try Socket.connect(road.socks)
      #expect(try application.socks(to: "vm", port) == 0)
      let echo = try await onThread {
        try application.write([1, 2, 3])
        let first = try application.read(exactly: 3)
        road.wire.setDown(true)
        try application.write([4, 5, 6])
        usleep(700_000)  // the outage itself: what is tested is that the session outlives a time, so time must pass
        road.wire.setDown(false)
        let rest = try application.read(exactly: 3)
        application.endOutput()
        return first + rest
      }
      #expect(echo == [1, 2, 3, 4, 5, 6])
      try await serving
    }
  }

  @Test("a stopped receiver stops the sender after a bounded number of octets")
  func backPressure() async throws {
    try await Road.with { road in
      let (service, port) = try Socket.listen()
      let sent = Counter()
      let application = try Socket.connect(road.socks)
      Task.detached {
        try? await onThread {
          let peer = try service.accept()
          let block = [UInt8](repeating: 9, count: 1 << 20)
          for _ in 0..<200 {
            try peer.write(block)
            sent.add(1 << 20)
          }
        }
      }
      #expect(try application.socks(to: "vm", port) == 0)
      // The service writes until nothing moves for half a second; the application reads nothing.
      let stopped = try await onThread {
        var last = -1
        while case let now = sent.value, now != last {
          last = now
          usleep(500_000)
        }
        return last
      }
      // 16 MiB flow credit, 16 MiB send buffer at most, and the kernel's buffers of three sockets.
      #expect(stopped >= 1 << 20)
      #expect(stopped < 64 << 20)
    }
  }

  @Test("two hundred short connections one after the other, and fifty at once")
  func many() async throws {
    try await Road.with { road in
      let (service, port) = try Socket.listen()
      Task.detached {
        try? await onThread {
          while let peer = try? service.acceptForever() {
            Task.detached {
              try? await onThread {
                try peer.write(try peer.readToEnd()); peer.endOutput()
              }
            }
          }
        }
      }
      @Sendable func once(_ number: Int) async throws -> Bool {
        try await onThread {
          let application = try Socket.connect(road.socks)
          guard try application.socks(to: "vm", port) == 0 else { return false }
          let question = Array("number \(number)".utf8)
          try application.write(question)
          application.endOutput()
          return try application.readToEnd() == question
        }
      }
      for number in 0..<200 { #expect(try await once(number), "connection \(number)") }
      let right = try await withThrowingTaskGroup(of: Bool.self) { group in
        for number in 0..<50 { group.addTask { try await once(number) } }
        return try await group.reduce(into: 0) { $0 += $1 ? 1 : 0 }
      }
      #expect(right == 50)
    }
  }

  @Test("with another key the client ends with a line that says so")
  func wrongKey() async throws {
    await #expect {
      try await Road.with(clientKey: "ffeeddccbbaa99887766554433221100") { _ in }
    } throws: { error in
      "\(error)".contains("key") && "\(error)".contains("vm")
    }
  }

  @Test("without an agent the client ends with a line that says where it looked")
  func noAgent() async throws {
    let port = try Socket.freePort()
    let keyFile = try Road.keyFile()
    defer { try? FileManager.default.removeItem(atPath: keyFile) }
    let client = ClientService(
      settings: ClientSettings(
        node: "client", machines: [.init(name: "vm", agent: Endpoint("127.0.0.1:\(port)")!)], keyFile: keyFile,
        socks: Endpoint("127.0.0.1:0")!),
      logger: Road.quiet)
    await #expect {
      try await client.run()
    } throws: { error in
      "\(error)".contains("127.0.0.1:\(port)") && "\(error)".contains("longhaul agent")
    }
  }

  @Test("a static forward leads to its port")
  func forward() async throws {
    let (service, port) = try Socket.listen()
    let local = try Socket.freePort()
    try await Road.with(forwards: ["127.0.0.1:\(local)=vm:\(port)"]) { _ in
      async let serving: Void = onThread { try service.accept().write(Array("here".utf8)) }
      let application = try Socket.connect(local)
      #expect(try await onThread { String(decoding: try application.readToEnd(), as: UTF8.self) } == "here")
      try await serving
    }
  }
}

final class Counter: Sendable {
  private let total = Mutex(0)
  var value: Int { total.withLock { $0 } }
  func add(_ count: Int) { total.withLock { $0 += count } }
}
