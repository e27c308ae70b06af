import Control
import Controller
import Foundation
import Hypervisors
import Testing
import Vocabulary

@Suite("The controller", .timeLimit(.minutes(2)))
struct ControllerTests {
  /// Two accelerators, a client and the agent, with the path to center2 measured at 300 ms.
  private func wholeCast(
    _ bench: ControllerBench, _ body: (_ client: FakeNode, _ agent: FakeNode, _ near: FakeNode, _ far: FakeNode) async throws -> Void
  ) async throws {
    try await bench.run { controller in
      let near = FakeNode.accelerator("a", site: "access", address: "10.0.1.3", at: controller)
      let far = FakeNode.accelerator("b", site: "center2", address: "10.2.0.5", at: controller)
      let client = FakeNode.client(at: controller)
      let agent = FakeNode.agent(at: controller)
      try await near.join {
        try await far.join {
          try await agent.join {
            try await client.join {
              try await client.report(.measured(site: "center2", roundTripMilliseconds: 300.4, rateMegabitsPerSecond: 100))
              try await body(client, agent, near, far)
            }
          }
        }
      }
    }
  }

  @Test("a whole migration: PREPARE with the accelerated path, FREEZE, GO, FENCE, and the reason in words and figures")
  func migration() async throws {
    let bench = try ControllerBench()
    try await wholeCast(bench) { client, agent, near, far in
      bench.beginMigration()
      let (address, path) = try await client.nextPrepare()
      #expect(address == Endpoint("10.2.0.4:7600"))
      #expect(path == .accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a", "b"]))
      #expect(try await agent.nextPrepare() == (Endpoint("10.2.0.4:7600")!, .direct))
      try await near.next("WARM") {
        $0 == .warm(peer: "b", rate: .megabitsPerSecond(100), roundTripMilliseconds: 300.4, holdMilliseconds: 6_000)
      }

      bench.stopSource()
      try await client.next("FREEZE") { if case .freeze(_, "vm") = $0 { true } else { false } }
      #expect(client.gos.isEmpty)

      bench.resumeDestination()
      let token = try await client.nextGo()
      #expect(token.agent == Endpoint("10.2.0.4:7600"))
      #expect(token.path == path)
      #expect(bench.key.verify(token), "the token is signed with the installation's key")
      let now = Int64(Date().timeIntervalSince1970)
      #expect(((now + 30)...(now + 90)).contains(token.expires))
      #expect(token.epoch >= UInt64(now - 600), "epochs go on from the seconds since 1970")

      try await client.report(.moved(machine: "vm", epoch: token.epoch, goToConfirmedMilliseconds: 301))
      try await agent.next("FENCE") { $0 == .fence(migration: MigrationID("vm-\(token.epoch)"), machine: "vm", agent: token.agent) }

      let reports: [MigrationReport] = try await client.client.get("/v1/migrations")
      #expect(reports.count == 1)
      let report = try #require(reports.first)
      #expect(report.state == "completed")
      #expect((report.source, report.destination) == ("center1", "center2"))
      #expect(report.stopToResumeMilliseconds == 85)
      #expect(report.clients.first?.pathReason == "round trip 300.4 ms from access to center2 exceeds 50 ms")
      #expect(report.clients.first?.goToConfirmedMilliseconds == 301)
      #expect(report.resumeToGoMilliseconds ?? .infinity < 10_000)
      #expect(far.gos.isEmpty && agent.gos.map(\.path) == [.direct], "GO is for clients")

      let lines: [TimelineEntry] = try await client.client.get("/v1/timeline")
      for word in ["PREPARE: ", "FREEZE: ", "GO: ", "FENCE: ", "path of client: through a and b: round trip 300.4 ms"] {
        #expect(lines.contains { $0.event.hasPrefix(word) }, "\(word) is not on the timeline")
      }
      #expect(zip(lines, lines.dropFirst()).allSatisfy { $0.atMicroseconds < $1.atMicroseconds })
      let later: [TimelineEntry] = try await client.client.get("/v1/timeline?since=\(lines[lines.count - 3].atMicroseconds)")
      #expect(later.prefix(2) == lines.suffix(2))
    }
  }

  @Test(
    "a migration that was over before the controller came: who registers is told where the machine runs, and its agent which address is left"
  )
  func sleptThrough() async throws {
    let bench = try ControllerBench()
    bench.source.set(guest: .departed)
    bench.destination.set(guest: .running)
    try await wholeCast(bench) { client, agent, _, _ in
      let token = try await client.nextGo()
      #expect(token.agent == Endpoint("10.2.0.4:7600"))
      #expect(token.path == .accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a", "b"]))
      #expect(bench.key.verify(token))
      // It registers again, as a node does whose link was lost, and hears it now that the hypervisors have been asked.
      try await agent.register()
      try await agent.next("FENCE") { if case .fence(_, "vm", Endpoint("10.2.0.4:7600")!) = $0 { true } else { false } }
    }
  }

  @Test("GO is never sent before RESUME, whatever the source says")
  func noEarlyGo() async throws {
    let bench = try ControllerBench()
    try await wholeCast(bench) { client, _, _, _ in
      bench.beginMigration()
      _ = try await client.nextPrepare()
      bench.stopSource()
      try await client.next("FREEZE") { if case .freeze = $0 { true } else { false } }
      // Everything up to here has been taken in once the destination's answer to a question has.
      bench.destination.say(.migration(.completed), .guest(.incoming))
      let asked = try await client.client.get("/v1/status", as: StatusDocument.self)
      #expect(asked.machines.first?.migration != nil)
      #expect(client.gos.isEmpty)
      bench.resumeDestination()
      _ = try await client.nextGo()
    }
  }

  @Test("cancelled: ROLL BACK to the agent and the client, and no GO")
  func cancelled() async throws {
    let bench = try ControllerBench()
    try await wholeCast(bench) { client, agent, _, _ in
      bench.beginMigration()
      _ = try await client.nextPrepare()
      bench.source.say(.migration(.cancelling), .migration(.cancelled))
      bench.destination.say(.migration(.failed), .lost(reason: "closed"), .gone(reason: "refused"))
      for node in [client, agent] {
        try await node.next("ROLL BACK") {
          if case .rollBack(_, "vm", let address) = $0 { address == Endpoint("10.2.0.4:7600") } else { false }
        }
      }
      #expect(client.gos.isEmpty)
      let reports: [MigrationReport] = try await client.client.get("/v1/migrations")
      #expect(reports.map(\.state) == ["rolledBack"])
    }
  }

  @Test("a client that loses its link in the middle registers again and gets its GO")
  func reconnect() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let first = FakeNode.client(at: controller)
      try await first.join {
        bench.beginMigration()
        _ = try await first.nextPrepare()
      }
      bench.stopSource()
      bench.resumeDestination()
      try await self.eventually(controller, "GO is out") { $0.contains { $0.state == "moving" } }
      let second = FakeNode.client(at: controller)
      try await second.join {
        let token = try await second.nextGo()
        #expect(bench.key.verify(token))
        try await second.report(.moved(machine: "vm", epoch: token.epoch, goToConfirmedMilliseconds: 5))
      }
      try await self.eventually(controller, "completed") { $0.contains { $0.state == "completed" } }
    }
  }

  @Test("without accelerators, or without a measurement, the path is direct, and the reason says why")
  func direct() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let measured = FakeNode.client("measured", at: controller)
      let homeless = FakeNode.client("homeless", site: nil, at: controller)
      try await measured.join {
        try await homeless.join {
          try await measured.report(.measured(site: "center2", roundTripMilliseconds: 300, rateMegabitsPerSecond: nil))
          bench.beginMigration()
          #expect(try await measured.nextPrepare().path == .direct)
          #expect(try await homeless.nextPrepare().path == .direct)
          let reports: [MigrationReport] = try await controller.get("/v1/migrations")
          let reasons = reports.flatMap(\.clients).map { "\($0.node): \($0.pathReason ?? "")" }
          #expect(
            reasons == [
              "homeless: direct: homeless has not said at which site it stands (--site), so its path is not known",
              "measured: direct: round trip 300 ms from access to center2 exceeds 50 ms, but no accelerator is registered at access or center2",
            ])
        }
      }
    }
  }

  @Test("clients and accelerators are told whom to probe, and anew when an accelerator comes")
  func probes() async throws {
    let bench = try ControllerBench { $0.probeInterval = .milliseconds(250 as Int64) }
    try await bench.run { controller in
      let client = FakeNode.client(at: controller)
      try await client.join {
        let fromSettings = ProbeTarget(site: "center2", address: Endpoint("10.2.0.9:7")!, intervalMilliseconds: 250)
        try await client.next("the responder of the settings") { $0 == .probe(targets: [fromSettings]) }
        let far = FakeNode.accelerator("b", site: "center2", address: "10.2.0.5", at: controller)
        try await far.join {
          let accelerator = ProbeTarget(site: "center2", address: Endpoint("10.2.0.5:7700")!, intervalMilliseconds: 250)
          try await client.next("the accelerator") { $0 == .probe(targets: [accelerator]) }
          let near = FakeNode.accelerator("a", site: "access", address: "10.0.1.3", at: controller)
          try await near.join {
            try await near.next("the other site") { $0 == .probe(targets: [accelerator]) }
            let back = ProbeTarget(site: "access", address: Endpoint("10.0.1.3:7700")!, intervalMilliseconds: 250)
            try await far.next("the way back") { $0 == .probe(targets: [back]) }
          }
        }
        let orders = client.orders.all
        #expect(orders.count == 2, "nothing is said twice: \(orders)")
      }
    }
  }

  @Test("an accelerator is told of those at other sites, and what lies beside them, and anew when one comes; one whose link breaks stays")
  func map() async throws {
    let bench = try ControllerBench { $0.sites[2].prefixes = [IPPrefix("10.9.0.0/16")!] }
    try await bench.run { controller in
      let near = FakeNode.accelerator("a", site: "access", address: "10.0.1.3", tunnel: true, at: controller)
      try await near.join {
        try await near.next("an empty map, for one that may have an older one") { $0 == .peers(map: []) }
        let agent = IPPrefix(ControllerBench.agents["center2"]!.address)
        let b = PeerPlace(node: "b", tunnel: Endpoint("10.2.0.5:7701")!, prefixes: [IPPrefix("10.9.0.0/16")!, agent])
        let far = FakeNode.accelerator("b", site: "center2", address: "10.2.0.5", tunnel: true, at: controller)
        try await far.join {
          try await near.next("b") { $0 == .peers(map: [b]) }
          try await far.next("a") { $0 == .peers(map: [PeerPlace(node: "a", tunnel: Endpoint("10.0.1.3:7701")!, prefixes: [])]) }
          // Beside it, and without a place for tunnels: neither is a peer of a.
          try await FakeNode.accelerator("c", site: "access", address: "10.0.1.4", tunnel: true, at: controller).register()
          try await FakeNode.accelerator("d", site: "center1", address: "10.1.0.5", at: controller).register()
        }
        try await FakeNode.accelerator("e", site: "center2", address: "10.2.0.6", tunnel: true, at: controller).register()
        let e = PeerPlace(node: "e", tunnel: Endpoint("10.2.0.6:7701")!, prefixes: [IPPrefix("10.9.0.0/16")!, agent])
        try await near.next("e beside b, whose link is gone") { $0 == .peers(map: [b, e]) }
        #expect(near.orders.all.count { if case .peers = $0 { true } else { false } } == 3)
      }
    }
  }

  @Test("paths are told with their estimates, their decision and its reason, and what fails")
  func paths() async throws {
    let bench = try ControllerBench { $0.pathRates = ["access-center2": .megabitsPerSecond(50)] }
    try await wholeCast(bench) { client, _, near, _ in
      try await client.report(
        .measured(site: "center1", roundTripMilliseconds: 10, rateMegabitsPerSecond: 94.5),
        .unreachable(site: "center1", reason: "refused"),
        .measured(site: "nowhere", roundTripMilliseconds: 1, rateMegabitsPerSecond: nil),
        .measured(site: "center1", roundTripMilliseconds: -1, rateMegabitsPerSecond: nil),
        .measured(site: "center1", roundTripMilliseconds: 1e300, rateMegabitsPerSecond: 1e300))
      let paths: [PathDocument] = try await client.client.get("/v1/paths")
      #expect(paths.map { "\($0.from) \($0.to)" } == ["access center1", "access center2"])
      #expect(paths.map(\.isAccelerated) == [false, true])
      #expect(paths.map(\.roundTripMilliseconds) == [10, 300.4])
      #expect(paths[0].trouble == "refused")
      #expect(paths[0].lossPercent == 50)
      #expect(paths[1].route == ["a", "b"])
      #expect(paths[1].reason == "round trip 300.4 ms from access to center2 exceeds 50 ms")
      #expect(paths[1].configuredRateMegabitsPerSecond == 50)
      bench.beginMigration()
      try await near.next("WARM at the rate of the settings") {
        if case .warm("b", .megabitsPerSecond(50), _, _) = $0 { true } else { false }
      }
    }
  }

  @Test("the timeline can be followed while it is written")
  func follow() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let lines = Inbox<TimelineEntry>()
      let events = try await controller.events("/v1/timeline/events?since=0")
      try await during {
        for try await event in events { lines.add(try JSONDecoder().decode(TimelineEntry.self, from: Data(event.utf8))) }
      } _: {
        try await FakeNode.client(at: controller).register()
        let entry = try await lines.next("registration") { $0.actor == "client" }
        #expect(entry.event == "client registered at access")
      }
    }
  }

  @Test("a line of the timeline is one line, without a terminal's control characters, and bounded")
  func plainLines() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let client = FakeNode.client(at: controller)
      try await client.register()
      try await client.report(.event("a\u{1b}[2Jb\nc"), .event(String(repeating: "x", count: 5_000)))
      let lines: [TimelineEntry] = try await controller.get("/v1/timeline")
      #expect(lines.contains { $0.event.hasPrefix("a [2Jb c") })
      #expect(lines.allSatisfy { $0.event.count <= 1_000 })
    }
  }

  @Test("with real QMP sockets: a migration from PREPARE to FENCE")
  func overQMP() async throws {
    let (source, destination) = (ScriptedHypervisor(), ScriptedHypervisor())
    destination.set { $0.status = "inmigrate" }
    try await source.start()
    let bench = try ControllerBench(hypervisors: ["center1": source.address, "center2": destination.address])
    try await wholeCast(bench) { client, agent, _, _ in
      try await source.commands.next("the source's watcher") { $0 == "query-status" }
      // The destination starts when the migration is about to.
      try await destination.start()
      try await destination.commands.next("the destination's watcher") { $0 == "query-status" }
      source.set { $0.migration = ["status": "active"] }
      for status in ["setup", "active"] {
        source.sendMigration(status)
        destination.sendMigration(status)
      }
      #expect(try await client.nextPrepare().path != .direct)
      source.set { $0.status = "finish-migrate" }
      source.send("STOP", stamp: 1_700_000_000_000_000)
      try await client.next("FREEZE") { if case .freeze = $0 { true } else { false } }
      source.set {
        $0.status = "postmigrate"; $0.migration = ["status": "completed", "downtime": 81, "ram": ["transferred": 1_000_000]]
      }
      source.sendMigration("completed")
      destination.set { $0.status = "running" }
      destination.send("RESUME", stamp: 1_700_000_000_085_250)
      destination.sendMigration("completed")
      let token = try await client.nextGo()
      #expect(bench.key.verify(token))
      try await client.report(.moved(machine: "vm", epoch: token.epoch, goToConfirmedMilliseconds: 310))
      try await agent.next("FENCE") { if case .fence = $0 { true } else { false } }
      try await self.eventually(client.client, "completed") { $0.contains { $0.state == "completed" } }
      let report = try #require(try await client.client.get("/v1/migrations", as: [MigrationReport].self).first)
      #expect(report.figures.downtimeMilliseconds == 81)
      #expect(report.stopToResumeMilliseconds == 85.25)
    }
    try await source.kill()
    try await destination.kill()
  }

  /// Follows the timeline until the migrations are as wanted; each line is an occasion to look.
  private func eventually(
    _ controller: ControllerClient, _ what: String, _ fits: @escaping @Sendable ([MigrationReport]) -> Bool
  ) async throws {
    let lines = Inbox<String>()
    let events = try await controller.events("/v1/timeline/events")
    try await during {
      for try await event in events { lines.add(event) }
    } _: {
      while true {
        if fits(try await controller.get("/v1/migrations")) { return }
        try await lines.next(what)
      }
    }
  }
}
