import Control
import ControlLink
import Controller
import Foundation
import NIOCore
import NIOPosix
import Synchronization
import Testing
import Vocabulary

@Suite("Nodes and the controller", .timeLimit(.minutes(2)))
struct NodeLinkTests {
  /// The link that agents, clients and accelerators have.
  private func link(
    _ description: NodeDescription, to controller: ControllerClient, orders: Inbox<NodeOrder>
  ) async throws -> NIOLoopBound<ControlLink> {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    return try await loop.submit {
      let link = ControlLink(
        loop: loop, controller: controller.controller, description: description, credentials: controller.credentials, sources: [],
        logger: WatchedHypervisor.quiet, onOrder: { orders.add($0) })
      link.start()
      return NIOLoopBound(link, eventLoop: loop)
    }.get()
  }

  @Test("the link of real nodes registers, hears orders, reports, and comes back by itself when it is cut")
  func realLink() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let orders = Inbox<NodeOrder>()
      let lines = Inbox<String>()
      let client = NodeDescription(node: "client", role: .client, site: "access", machines: ["vm"])
      let events = try await controller.events("/v1/timeline/events?since=0")
      try await during {
        for try await event in events { lines.add(event) }
      } _: {
        let link = try await self.link(client, to: controller, orders: orders)
        try await orders.next("the probe targets") { if case .probe = $0 { true } else { false } }
        try await link.eventLoop.submit { link.value.report(.event("hello")) }.get()
        try await lines.next("the report") { $0.contains("hello") }
        // Somebody else takes its name for a moment: the link is cut, and the node takes it back.
        try await FakeNode(client, at: controller).register()
        try await lines.next("its return") { $0.contains("registered again") }
        try await lines.next("its return") { $0.contains("registered again") }
        bench.beginMigration()
        try await orders.next("PREPARE") { if case .prepare = $0 { true } else { false } }
        try await link.eventLoop.submit { link.value.stop() }.get()
        try await lines.next("its end") { $0.contains("link to client lost") }
      }
    }
  }

  @Test("a report that comes twice, because its answer got lost, counts once")
  func twice() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let client = FakeNode.client(at: controller)
      try await client.register()
      let batch = [
        TimedReport(atMicroseconds: 1_700_000_000_000_000, report: .event("once")),
        TimedReport(
          atMicroseconds: 1_700_000_000_000_001, report: .measured(site: "center2", roundTripMilliseconds: 300, rateMegabitsPerSecond: nil)),
        TimedReport(atMicroseconds: 1_700_000_000_000_002, report: .unreachable(site: "center2", reason: "refused")),
      ]
      for _ in 0..<2 {
        let answer = try await controller.request(.POST, "/v1/nodes/client/reports", body: Array(JSONEncoder().encode(batch)))
        #expect(answer.status == 204)
        try await client.register()
      }
      let lines: [TimelineEntry] = try await controller.get("/v1/timeline")
      #expect(lines.map(\.event).filter { $0.hasPrefix("once") } == ["once (stamped 1700000000.000000)"])
      let paths: [PathDocument] = try await controller.get("/v1/paths")
      #expect(paths.map(\.lossPercent) == [50])
    }
  }

  @Test("stamps that are no times are refused, and do not stop the controller")
  func stamps() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let client = FakeNode.client(at: controller)
      try await client.register()
      for stamp in [Int64.min, -1, Int64.max] {
        let body = try JSONEncoder().encode([TimedReport(atMicroseconds: stamp, report: .event("x"))])
        #expect(try await controller.request(.POST, "/v1/nodes/client/reports", body: Array(body)).status == 400)
      }
      #expect(try await controller.request(.GET, "/v1/health").status == 200)
    }
  }

  @Test("a reader that is too slow is disconnected, and the others go on")
  func slowReader() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let slow = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .channelOption(.autoRead, value: false)
        .channelOption(.socketOption(.so_rcvbuf), value: 4_096)
        .connect(host: "127.0.0.1", port: Int(controller.controller.port)).get()
      let request = "GET /v1/timeline/events HTTP/1.1\r\nHost: x\r\nAuthorization: \(controller.credentials.authorization ?? "")\r\n\r\n"
      try await slow.writeAndFlush(ByteBuffer(string: request))
      let client = FakeNode.client(at: controller)
      try await client.join {
        // 24 x 700 x 1 KB: more than the sockets' buffers (a few MiB) and 256 waiting events hold.
        for round in 0..<24 {
          let batch = (0..<700).map {
            TimedReport(atMicroseconds: Int64(round * 700 + $0), report: .event(String(repeating: "x", count: 1_000)))
          }
          #expect(try await controller.request(.POST, "/v1/nodes/client/reports", body: Array(JSONEncoder().encode(batch))).status == 204)
        }
        try? await slow.setOption(.autoRead, value: true).get()  // fails where the kernel has told of the end already
        try? await slow.closeFuture.get()  // which never comes for one that is still served
        bench.beginMigration()
        _ = try await client.nextPrepare()
      }
    }
  }

  /// Twenty migrations there and back. Not asserted in figures, since a machine under test is busy; they are printed.
  @Test("there and back, each with its GO; and how long it takes from RESUME on the hypervisor's socket to GO at the node")
  func thereAndBack() async throws {
    let hypervisors = [ScriptedHypervisor(), ScriptedHypervisor()]
    let bench = try ControllerBench(hypervisors: ["center1": hypervisors[0].address, "center2": hypervisors[1].address])
    try await hypervisors[0].start()
    try await bench.run { controller in
      let client = FakeNode.client(at: controller)
      var took: [Duration] = []
      var epoch: UInt64 = 0
      let lines = Inbox<String>()
      let events = try await controller.events("/v1/timeline/events?since=0")
      let reader = Task { for try await event in events { lines.add(event) } }
      defer { reader.cancel() }
      try await client.join {
        try await lines.next("the source") { $0.contains("\"connected\"") }
        for round in 0..<20 {
          let (source, destination) = (hypervisors[round % 2], hypervisors[1 - round % 2])
          destination.set {
            $0.status = "inmigrate"; $0.migration = [:]
          }
          try await destination.start()
          try await lines.next("the destination") { $0.contains("\"connected\"") }
          for status in ["setup", "active"] {
            destination.sendMigration(status)
            source.sendMigration(status)
          }
          _ = try await client.nextPrepare()
          source.set { $0.status = "finish-migrate" }
          source.send("STOP")
          try await client.next("FREEZE") { if case .freeze = $0 { true } else { false } }
          source.set {
            $0.status = "postmigrate"; $0.migration = ["status": "completed"]
          }
          source.sendMigration("completed")
          destination.set {
            $0.status = "running"; $0.migration = ["status": "completed"]
          }
          let start = ContinuousClock.now
          destination.send("RESUME")
          let token = try await client.nextGo()
          took.append(ContinuousClock.now - start)
          destination.sendMigration("completed")
          #expect(token.epoch > epoch)
          #expect(
            token.agent
              == Array(ControllerBench.agents.values).first { $0 == ControllerBench.agents[round % 2 == 0 ? "center2" : "center1"] })
          epoch = token.epoch
          try await client.report(.moved(machine: "vm", epoch: token.epoch, goToConfirmedMilliseconds: 1))
          try await source.kill()
        }
      }
      let sorted = took.sorted()
      print("RESUME to GO at the node: median \(sorted[10]), largest \(sorted[19])")
      let states = try await controller.get("/v1/migrations", as: [MigrationReport].self).map(\.state)
      #expect(states.prefix(19).allSatisfy { $0 == "completed" }, "\(states)")
      for hypervisor in hypervisors { try? await hypervisor.kill() }
    }
  }
}
