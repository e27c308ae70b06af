import Agent
import Client
import Control
import Foundation
import LinuxNetwork
import NIOCore
import NIOPosix
import TestSupport
import Testing
import Vocabulary

/// Whether this process may make network namespaces; tests that need them are skipped without, and say why.
let mayMakeNamespaces: Bool = geteuid() == 0 && Shell.find("ip") != nil

/// A client and an agent in network namespaces of their own, with two cables between them: 10.201.1.0/24 and 10.201.2.0/24, the client .1 and the agent .2 on each.
struct Cables: Sendable {
  let client: Namespace
  let agent: Namespace
  let entrances: ClientEntrances
  let log: Inbox<String>

  /// - Parameter second: the client's second address, nil if it comes later.
  static func with(
    addresses: [IPAddress] = [], second: String? = "10.201.2.1/24", secondAtAgent: String? = "10.201.2.2/24",
    _ body: @escaping @Sendable (Cables) async throws -> Void
  ) async throws {
    let (client, agent) = (Namespace("lhsession-c"), Namespace("lhsession-a"))
    for host in [client, agent] {
      host.delete()
      try host.create()
    }
    defer { for host in [client, agent] { host.delete() } }
    for number in 1...2 {
      try Shell.run([
        "ip", "link", "add", "cable\(number)", "netns", client.name, "type", "veth", "peer", "name", "cable\(number)", "netns", agent.name,
      ])
      for host in [client, agent] { try host.ip("link", "set", "cable\(number)", "up") }
    }
    try client.ip("addr", "add", "10.201.1.1/24", "dev", "cable1")
    try agent.ip("addr", "add", "10.201.1.2/24", "dev", "cable1")
    if let second { try client.ip("addr", "add", second, "dev", "cable2") }
    if let secondAtAgent { try agent.ip("addr", "add", secondAtAgent, "dev", "cable2") }
    // The agent answers at its first address by either cable, as a machine behind a router does.
    try client.ip("route", "add", "10.201.1.2/32", "dev", "cable1", "metric", "10")
    try agent.set(["net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0"])

    let keyFile = try Road.keyFile()
    defer { try? FileManager.default.removeItem(atPath: keyFile) }
    let groups = [client, agent].map { _ in MultiThreadedEventLoopGroup(numberOfThreads: 1) }
    for (group, host) in zip(groups, [client, agent]) { try await group.next().submit { try CurrentThread.enter(host) }.get() }
    let log = Inbox<String>()
    let service = AgentService(
      settings: AgentSettings(listen: Endpoint("0.0.0.0:7600")!, keyFile: keyFile, machine: "vm", addresses: addresses),
      logger: LogBook.logger(log), on: groups[1].next())
    try await Journey.running({ try await service.run(ready: $0) }) { (_: Endpoint) in
      let program = ClientService(
        settings: ClientSettings(
          node: "client", machines: [.init(name: "vm", agent: Endpoint("10.201.1.2:7600")!)], keyFile: keyFile,
          socks: Endpoint("127.0.0.1:1080")!), logger: LogBook.logger(log), on: groups[0].next())
      try await Journey.running({ try await program.run(ready: $0) }) { (entrances: ClientEntrances) in
        try await body(Cables(client: client, agent: agent, entrances: entrances, log: log))
      }
    }
    for group in groups { try await group.shutdownGracefully() }
  }

  func logged(_ text: String) async throws { _ = try await log.next { $0.contains(text) } }

  func flow() async throws -> Flow {
    try await Flow(socks: 1_080, application: client, service: agent)
  }
}

@Suite(
  "A session whose ends change their own networks", .serialized, .timeLimit(.minutes(2)),
  .enabled(if: mayMakeNamespaces, "needs root, for network namespaces"))
struct NetworkTests {
  @Test("follows when the client's address is taken away, at once and not only when the carrier has been silent for long")
  func clientsAddress() async throws {
    try await Cables.with { cables in
      let flow = try await cables.flow()
      try flow.ask(3_000_000)
      // The other cable leads to the same agent.
      try cables.client.ip("route", "add", "10.201.1.2/32", "via", "10.201.2.2", "metric", "20")
      try cables.client.ip("addr", "del", "10.201.1.1/24", "dev", "cable1")
      try? cables.client.ip("route", "del", "10.201.1.2/32", "dev", "cable1")
      try await cables.logged("this end of the carrier to machine vm is gone")
      try await cables.logged("session with machine vm recovered at 10.201.1.2:7600")
      #expect(try await flow.get(3_000_000))
      #expect(try await flow.works())
    }
  }

  @Test("waits for another address when the client has none, and follows as soon as it comes")
  func laterAddress() async throws {
    try await Cables.with(second: nil) { cables in
      let flow = try await cables.flow()
      try cables.client.ip("link", "set", "cable1", "down")
      try await cables.logged("this end of the carrier to machine vm is gone")
      try flow.ask(100_000, 5)
      try await cables.logged("no carrier to 10.201.1.2:7600")
      try cables.client.ip("addr", "add", "10.201.2.1/24", "dev", "cable2")
      try cables.client.ip("route", "add", "10.201.1.2/32", "via", "10.201.2.2")
      try await cables.logged("session with machine vm recovered at 10.201.1.2:7600")
      #expect(try await flow.get(100_000, 5))
    }
  }

  @Test("finds the machine when both ends move at once: the agent announces the address that it finds itself with, and loses the other")
  func bothEnds() async throws {
    try await Cables.with(secondAtAgent: nil) { cables in
      let flow = try await cables.flow()
      try cables.agent.ip("addr", "add", "10.201.2.2/24", "dev", "cable2")
      try await cables.logged("this machine has the address 10.201.2.2 now")
      try flow.ask(2_000_000, 6)
      try cables.agent.ip("addr", "del", "10.201.1.2/24", "dev", "cable1")
      try cables.client.ip("addr", "del", "10.201.1.1/24", "dev", "cable1")
      try await cables.logged("session with machine vm recovered at 10.201.2.2:7600")
      #expect(try await flow.get(2_000_000, 6))
      #expect(try await flow.works())
    }
  }
}
