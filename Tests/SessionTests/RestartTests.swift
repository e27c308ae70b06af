import Agent
import Client
import Foundation
import TestSupport
import Testing
import Vocabulary

@Suite("An agent that is started again", .serialized, .timeLimit(.minutes(2)))
struct RestartTests {
  /// An agent that runs until it is cancelled; succeeds once carriers are accepted.
  static func startAgent(at listen: Endpoint, keyFile: String, certificates: String? = nil) async throws -> (
    task: Task<Void, any Error>, at: Endpoint
  ) {
    let (ready, isReady) = AsyncThrowingStream.makeStream(of: Endpoint.self)
    let agent = AgentService(
      settings: AgentSettings(
        listen: listen, keyFile: keyFile, certificates: certificates, machine: "vm", addresses: [IPAddress("127.0.0.1")!]),
      logger: Road.quiet)
    let task = Task {
      do { try await agent.run { isReady.yield($0) } } catch { isReady.finish(throwing: error); throw error }
    }
    var places = ready.makeAsyncIterator()
    return (task, try #require(try await places.next()))
  }

  /// Asks for a flow until one is open; the client finds out in its own time that its session is gone.
  static func openFlow(_ socks: UInt16, to port: UInt16) async throws -> Socket {
    try await onThread {
      let deadline = ContinuousClock.now + .seconds(20)
      while true {
        let application = try Socket.connect(socks)
        if let reply = try? application.socks(to: "vm", port), reply == 0 { return application }
        guard ContinuousClock.now < deadline else { throw Socket.Failure(call: "no flow after the restart", code: 0) }
        usleep(20_000)
      }
    }
  }

  @Test("ends the flows that it does not know, and its clients open new sessions by themselves")
  func restart() async throws { try await Self.restart() }

  /// An agent crashes and is started again while a flow is open: the flow ends with a RST, and the next one gets a new session. The folders are those of certificates; nil: not sealed.
  static func restart(agentCertificates: String? = nil, clientCertificates: String? = nil) async throws {
    var logger = Road.quiet
    logger.logLevel = .critical  // the end of the session is what is wanted here
    let keyFile = try Road.keyFile()
    defer { try? FileManager.default.removeItem(atPath: keyFile) }
    let first = try await Self.startAgent(
      at: Endpoint("127.0.0.1:0")!, keyFile: keyFile, certificates: agentCertificates)
    let wire = try Wire(to: first.at.port)
    let client = ClientService(
      settings: ClientSettings(
        node: "client", machines: [.init(name: "vm", agent: Endpoint("127.0.0.1:\(wire.port)")!)], keyFile: keyFile,
        certificates: clientCertificates, socks: Endpoint("127.0.0.1:0")!), logger: logger)
    let (ready, isReady) = AsyncStream.makeStream(of: ClientEntrances.self)
    let running = Task { try await client.run { isReady.yield($0) } }
    var entrances = ready.makeAsyncIterator()
    let socks = try #require(await entrances.next()?.socks).port
    let (service, port) = try Socket.listen()

    let old = try await openFlow(socks, to: port)
    let peer = try await onThread { try service.accept() }
    try peer.write([1])
    #expect(try await onThread { try old.read(exactly: 1) } == [1])

    // As a crash: the network forgets the connection first, so that no goodbye arrives.
    wire.setDown(true)
    first.task.cancel()
    try? await first.task.value
    let second = try await Self.startAgent(at: first.at, keyFile: keyFile, certificates: agentCertificates)
    wire.setDown(false)
    #expect(try await onThread { try old.endsWithReset() })
    let new = try await openFlow(socks, to: port)
    let newPeer = try await onThread { try service.accept() }
    try newPeer.write([2])
    #expect(try await onThread { try new.read(exactly: 1) } == [2])

    running.cancel()
    second.task.cancel()
    try? await running.value
    try? await second.task.value
  }
}
