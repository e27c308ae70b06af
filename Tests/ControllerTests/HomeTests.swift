import Authentication
import Control
import Controller
import Foundation
import Testing
import Vocabulary

@Suite("Clients hear of their machine and its path while no migration goes on", .serialized, .timeLimit(.minutes(2)))
struct HomeTests {
  static let accelerated = PathChoice.accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a", "c"])

  static func near(_ controller: ControllerClient) -> FakeNode { .accelerator("a", site: "access", address: "10.0.1.3", at: controller) }
  static func far(_ controller: ControllerClient) -> FakeNode { .accelerator("c", site: "center1", address: "10.1.0.5", at: controller) }
  static func measured(_ milliseconds: Double) -> NodeReport {
    .measured(site: "center1", roundTripMilliseconds: milliseconds, rateMegabitsPerSecond: 100)
  }

  /// Reports the same round trip until a GO comes.
  func nextGo(of client: FakeNode, measuring milliseconds: Double) async throws -> GoToken {
    try await withThrowingTaskGroup(of: GoToken?.self) { group in
      group.addTask { try await client.nextGo() }
      group.addTask {
        while true {
          try await client.report(Self.measured(milliseconds))
          try await Task.sleep(for: .milliseconds(100))
        }
      }
      defer { group.cancelAll() }
      return try #require(try await group.next() ?? nil)
    }
  }

  @Test(
    "a session that runs is led onto accelerators, behind the warming of their tunnel, and off again; an accelerator that falls silent is no reason"
  )
  func policy() async throws {
    let bench = try ControllerBench { $0.placement.holdTime = .milliseconds(100 as Int64) }
    try await bench.run { controller in
      let client = FakeNode.client(at: controller)
      try await client.join {
        let first = try await self.nextGo(of: client, measuring: 300)
        #expect(first.path == .direct, "no accelerator had come while the controller waited for them")
        let near = Self.near(controller)
        try await near.join {
          var second: GoToken?
          try await Self.far(controller).join {
            second = try await self.nextGo(of: client, measuring: 300)
            #expect(second?.path == Self.accelerated)
            #expect(bench.key.verify(try #require(second)))
            #expect(try #require(second).epoch > first.epoch)
            #expect(near.orders.all.contains { if case .warm("c", _, _, _) = $0 { true } else { false } }, "the tunnel is warmed before")
          }
          // It has left: that alone moves nobody. What comes next is the end of the delay.
          let third = try await self.nextGo(of: client, measuring: 10)
          #expect(third.path == .direct)
          #expect(third.epoch > (second?.epoch ?? .max))
        }
      }
    }
  }

  @Test("after a controller's restart nobody is sent to the direct path before the accelerators have had time to register again")
  func restart() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let client = FakeNode.client(at: controller)
      try await client.join {
        try await client.report(Self.measured(300))
        try await Self.near(controller).join {
          try await Self.far(controller).join {
            let token = try await self.nextGo(of: client, measuring: 300)
            #expect(token.path == Self.accelerated)
            #expect(client.gos.count == 1, "the first word is the right one")
          }
        }
      }
    }
  }

  @Test("a machine that turns up elsewhere without a migration is told of, once it certainly runs nowhere else")
  func unplanned() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let client = FakeNode.client(site: nil, at: controller)
      try await client.join {
        let first = try await client.nextGo()
        #expect(first.agent == ControllerBench.agents["center1"])
        bench.destination.say(.gone(reason: "another process takes its place"))
        bench.destination.set(guest: .running)
        bench.destination.say(.connected)
        bench.source.say(.lost(reason: "the connection to its host"))
        // As long as the first hypervisor cannot be asked, the machine may run there.
        let deadline = ContinuousClock.now + .seconds(20)
        while try await (controller.get("/v1/status") as StatusDocument).machines.first?.home != "center2" {
          try #require(ContinuousClock.now < deadline, "the machine was not seen at center2")
          try await Task.sleep(for: .milliseconds(10))
        }
        #expect(client.gos.count == 1)
        bench.source.say(.gone(reason: "its host is down"))
        let second = try await client.nextGo()
        #expect(second.agent == ControllerBench.agents["center2"])
        #expect(second.epoch > first.epoch)
      }
    }
  }

  @Test("a client that has found its machine by itself is told the path that it should take")
  func recovered() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let client = FakeNode.client(site: nil, at: controller)
      try await client.join {
        let first = try await client.nextGo()
        try await client.report(.recovered(machine: "vm", agent: ControllerBench.agents["center2"]!))
        let second = try await client.nextGo()
        #expect(second.agent == ControllerBench.agents["center1"])
        #expect(second.epoch > first.epoch)
      }
    }
  }

  @Test("at a migration the agent gets the GO as well, to pass it on, and again when it comes back while clients have not moved")
  func throughAgent() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let client = FakeNode.client(site: nil, at: controller)
      try await client.join {
        _ = try await client.nextGo()
        var epoch: UInt64 = 0
        try await FakeNode.agent(at: controller).join {
          bench.beginMigration()
          _ = try await client.nextPrepare()
          bench.stopSource()
          bench.resumeDestination()
          epoch = try await client.nextGo().epoch
        }
        let agent = FakeNode.agent(at: controller)
        try await agent.join {
          let token = try await agent.nextGo()
          #expect(token.epoch == epoch)
          #expect(token.path == .direct)
          #expect(bench.key.verify(token))
        }
      }
    }
  }
}
