import Accelerator
import Agent
import Authentication
import Client
import Control
import Foundation
import Logging
import TestSupport
import Testing
import Vocabulary

@Suite("Agents, clients and accelerators at the controller's end of their link")
struct ServiceTests {
  static let loopback = Endpoint("127.0.0.1:0")!
  static let quiet: Logger = {
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    return logger
  }()

  static func withKeyFile(_ body: (String) async throws -> Void) async throws {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-test-\(UUID().uuidString).key").path
    try "00112233445566778899aabbccddeeff\n".write(toFile: path, atomically: true, encoding: .utf8)
    defer { try? FileManager.default.removeItem(atPath: path) }
    try await body(path)
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

  @Test("an accelerator registers the probe port that it got, answers there, and probes what it is told to")
  func accelerator() async throws {
    let controller = try await ControllerDouble.start()
    try await Self.withKeyFile { keyFile in
      let service = AcceleratorService(
        settings: AcceleratorSettings(
          node: "a", site: "access", keyFile: keyFile, entrance: Self.loopback, probe: Self.loopback, controller: controller.endpoint),
        logger: Self.quiet)
      try await Self.running({ try await service.run(ready: $0) }) { (places: AcceleratorPlaces) in
        let probe = try #require(places.probe)
        let registration = try await controller.requests.next { $0.isRegistration }
        let key = try EndpointKey(contentsOf: keyFile)
        #expect(registration.headers["authorization"] == ["Bearer \(key.bearerToken)"])
        let description = try registration.json(NodeDescription.self)
        #expect(probe.port != 0 && description.probe == probe && description.entrance == places.entrance)
        #expect(description.site == "access" && description.role == .accelerator)
        _ = try await controller.requests.next { $0.method == .GET }
        try await controller.order(.probe(targets: [ProbeTarget(site: "itself", address: probe, intervalMilliseconds: 100)]))
        let request = try await controller.requests.next { $0.isReports && String(decoding: $0.body, as: UTF8.self).contains("measured") }
        let reports = try request.json([TimedReport].self).map(\.report)
        #expect(reports.contains { if case .measured("itself", _, _) = $0 { true } else { false } })
      }
    }
    try await controller.kill()
  }

  @Test("an accelerator whose probe port is taken says so in one line")
  func busyProbePort() async throws {
    let controller = try await ControllerDouble.start()
    try await Self.withKeyFile { keyFile in
      let service = AcceleratorService(
        settings: AcceleratorSettings(node: "a", keyFile: keyFile, entrance: Self.loopback, probe: controller.endpoint), logger: Self.quiet)
      let error = await #expect(throws: AcceleratorError.self) { try await service.run() }
      #expect(
        error?.description == "accelerator: cannot listen on \(controller.endpoint) (--probe): Address already in use; "
          + "choose another address or port, or end the program that has it")
    }
    try await controller.kill()
  }

  @Test("an agent announces what it is told to and reports it; a client probes and reports, refuses a forged GO, and follows a signed one")
  func session() async throws {
    let (ofAgent, ofClient) = (try await ControllerDouble.start(), try await ControllerDouble.start())
    try await Self.withKeyFile { keyFile in
      let agent = AgentService(
        settings: AgentSettings(
          listen: Endpoint("127.0.0.1:0")!, keyFile: keyFile, machine: "vm", controller: ofAgent.endpoint,
          addresses: [IPAddress("127.0.0.1")!, IPAddress("127.0.0.2")!]), logger: Self.quiet)
      try await Self.running({ try await agent.run(ready: $0) }) { (listening: Endpoint) in
        let client = ClientService(
          settings: ClientSettings(
            node: "client", site: "access", machines: [.init(name: "vm", agent: listening)], keyFile: keyFile, socks: Self.loopback,
            controller: ofClient.endpoint), logger: Self.quiet)
        try await Self.running({ try await client.run(ready: $0) }) { (_: ClientEntrances) in
          let registration = try await ofAgent.requests.next { $0.isRegistration }
          let description = try registration.json(NodeDescription.self)
          #expect(description.role == .agent && description.machine == "vm" && description.site == nil)
          _ = try await ofAgent.requests.next { $0.method == .GET }
          let future = Endpoint(address: IPAddress("127.0.0.2")!, port: listening.port)
          try await ofAgent.order(.prepare(migration: "m", machine: "vm", agent: future, path: .direct))
          let announced = try await ofAgent.requests.next { $0.isReports }
          #expect(try announced.json([TimedReport].self).map(\.report) == [.announced(machine: "vm", agent: future, sessions: 1)])

          _ = try await ofClient.requests.next { $0.method == .GET }
          try await ofClient.order(
            .probe(targets: [ProbeTarget(site: "nowhere", address: ofClient.endpoint, intervalMilliseconds: 60_000)]))
          _ = try await ofClient.requests.next { String(decoding: $0.body, as: UTF8.self).contains("unreachable") }
          try await ofClient.order(.probe(targets: []))
          let token = GoToken(machine: "vm", epoch: 5, agent: listening, path: .direct, expires: 9_000_000_000)
          try await ofClient.order(.go(migration: "m", token: token))
          _ = try await ofClient.requests.next { String(decoding: $0.body, as: UTF8.self).contains("its MAC is wrong") }
          try await ofClient.order(.go(migration: "m", token: EndpointKey(contentsOf: keyFile).sign(token)))
          _ = try await ofClient.requests.next { String(decoding: $0.body, as: UTF8.self).contains(#""moved""#) }
        }
      }
    }
    try await ofAgent.kill()
    try await ofClient.kill()
  }
}
