import Agent
import Authentication
import Client
import Control
import Foundation
import TestSupport
import Testing
import Vocabulary

@Suite("A handover", .serialized, .timeLimit(.minutes(2)))
struct HandoverTests {
  @Test("is done once for each epoch: an old GO, a replayed, a forged and an expired one move nothing")
  func once() async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      try flow.ask(30_000_000)
      try await journey.prepare(1)
      try await journey.go(1, epoch: 5)
      try await journey.moved(epoch: 5)
      #expect(try await flow.get(30_000_000))
      let accepted = journey.wires.map(\.accepted)
      try await journey.go(2, epoch: 5)
      try await journey.go(2, epoch: 4)
      var forged = journey.token(2, epoch: 6)
      forged.agent = journey.place(0)
      try await journey.client.order(.go(migration: "m", token: forged))
      try await journey.reported(by: journey.client) { if case .stuck(_, 6, "GO refused: its MAC is wrong") = $0 { true } else { false } }
      try await journey.client.order(.go(migration: "m", token: journey.token(2, epoch: 7, expires: 1_000_000_000)))
      try await journey.reported(by: journey.client) { if case .stuck(_, 7, "GO refused: it has expired") = $0 { true } else { false } }
      #expect(try await flow.works())
      #expect(journey.wires.map(\.accepted) == accepted)
      try await journey.go(2, epoch: 6)  // the true one of that epoch still counts
      try await journey.moved(epoch: 6)
      #expect(try await flow.works())
    }
  }

  @Test("happens by the GO that the agent passes on over the old path, and the controller's comes too late to do anything")
  func overTheOldPath() async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      try await journey.prepare(1)
      try await journey.agent.order(.go(migration: "m", token: journey.token(1, epoch: 5)))
      try await journey.moved(epoch: 5)
      #expect(try await flow.works())
      let accepted = journey.wires.map(\.accepted)
      #expect(accepted[1] == 1)
      try await journey.go(1, epoch: 5)
      try await journey.agent.order(.go(migration: "m", token: journey.token(2, epoch: 4)))
      #expect(try await flow.works())
      #expect(journey.wires.map(\.accepted) == accepted)
    }
  }

  @Test("happens by the client's own search when its carrier falls silent and nobody says GO; the GO that comes later finds it done")
  func bySearching() async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      try await journey.prepare(1)
      journey.wires[0].setStalled(true)  // the machine has gone, and so has the controller's word of it
      try flow.ask(1_000_000, 3)
      try await journey.reported(by: journey.client) { $0 == .recovered(machine: "vm", agent: journey.place(1)) }
      #expect(try await flow.get(1_000_000, 3))
      let accepted = journey.wires[1].accepted
      try await journey.go(1, epoch: 5)
      try await journey.moved(epoch: 5)
      #expect(try await flow.works())
      #expect(journey.wires[1].accepted == accepted)
      journey.wires[0].setStalled(false)
    }
  }

  @Test("without PREPARE, to an address that nobody announced, works by GO alone, although the old path swallows everything")
  func unplanned() async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      journey.wires[0].setStalled(true)
      try flow.ask(500_000, 2)
      try await journey.go(2, epoch: 5)
      try await journey.moved(epoch: 5)
      #expect(try await flow.get(500_000, 2))
      journey.wires[0].setStalled(false)
    }
  }

  @Test("may be overtaken by the next one, and by the way back, before it is over")
  func overtaken() async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      for round in 0..<3 {
        let epoch = UInt64(10 + 10 * round)
        try flow.ask(10_000_000, UInt8(round))
        try await journey.prepare(1)
        journey.wires[1].setStalled(true)  // it has begun, and does not come to its end
        try await journey.go(1, epoch: epoch)
        try await onThread { try journey.wires[1].waitForAccepted(round + 1) }
        try await journey.prepare(2)
        try await journey.go(2, epoch: epoch + 1)
        try await journey.moved(epoch: epoch + 1)
        try await journey.agent.order(.fence(migration: "m", machine: "vm", agent: journey.place(2)))
        journey.wires[1].setStalled(false)
        try await journey.go(0, epoch: epoch + 2)  // and back, at once
        try await journey.moved(epoch: epoch + 2)
        #expect(try await flow.get(10_000_000, UInt8(round)))
        #expect(try await flow.works())
      }
    }
  }

  enum Step: CaseIterable { case prepare, freeze, goUnanswered, goRefused }

  @Test("is rolled back in every step, and the application notices nothing", arguments: Step.allCases)
  func rollBack(step: Step) async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      try flow.ask(2_000_000)
      try await journey.prepare(1)
      if step != .prepare { try await journey.client.order(.freeze(migration: "m", machine: "vm")) }
      switch step {
      case .prepare, .freeze: break
      case .goUnanswered:  // a connection stands, and nobody answers on it
        journey.wires[1].setStalled(true)
        try await journey.go(1, epoch: 5)
        try await onThread { try journey.wires[1].waitForAccepted(1) }
      case .goRefused:
        journey.wires[1].setDown(true)
        try await journey.go(1, epoch: 5)
        try await journey.logged("a try to reach machine vm was given up")
      }
      let order = NodeOrder.rollBack(migration: "m", machine: "vm", agent: journey.place(1))
      try await journey.agent.order(order)
      try await journey.client.order(order)
      #expect(try await flow.get(2_000_000))
      #expect(try await flow.works())
      journey.wires[1].setStalled(false)
      journey.wires[1].setDown(false)
      // The next migration, to the same place, is as any other.
      try await journey.prepare(1)
      try await journey.go(1, epoch: 6)
      try await journey.moved(epoch: 6)
      #expect(try await flow.works())
    }
  }

  @Test("after a FREEZE that nobody ends, the client looks for the machine by itself")
  func endlessFreeze() async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      try await journey.prepare(1)
      try await journey.client.order(.freeze(migration: "m", machine: "vm"))
      journey.wires[0].setDown(true)
      try flow.ask(1_000)
      try await journey.reported(by: journey.client) { $0 == .recovered(machine: "vm", agent: journey.place(1)) }
      #expect(try await flow.get(1_000))
    }
  }
}

@Suite("A client that starts", .serialized, .timeLimit(.minutes(2)))
struct LateClientTests {
  @Test("after its machine has moved learns from the controller where it is, and opens its session there")
  func moved() async throws {
    var options = Journey.Options()
    options.down = [0]
    options.firstGo = 1
    try await Journey.with(options) { journey in
      try await journey.moved(epoch: 1)
      let flow = try await Flow(journey)
      #expect(try await flow.works())
      #expect(journey.wires[0].accepted == 0 && journey.wires[1].accepted == 1, "one session, and no detour")
    }
  }

  @Test("again after it died takes the place of its dead session, which the agent does not keep for its ten minutes")
  func cameBack() async throws {
    try await Journey.with { journey in
      // A client of the same installation that dies without a word: its goodbye does not get through.
      let settings = { (port: UInt16) in
        ClientSettings(
          node: "phoenix", machines: [.init(name: "vm", agent: Endpoint("127.0.0.1:\(port)")!)], keyFile: journey.keyFile,
          socks: Endpoint("127.0.0.1:0")!)
      }
      let relay = try Wire(to: journey.agentPort)
      let first = ClientService(settings: settings(relay.port), logger: Road.quiet)
      let ready = Inbox<ClientEntrances>()
      let running = Task { try await first.run { ready.put($0) } }
      _ = try await ready.next()
      for _ in 0..<2 { try await journey.logged("a client has said which one it is") }  // the journey's own, and this one
      relay.setDown(true)
      running.cancel()
      try? await running.value
      let again = ClientService(settings: settings(journey.agentPort), logger: Road.quiet)
      try await Journey.running({ try await again.run(ready: $0) }) { (_: ClientEntrances) in
        try await journey.logged("session ended: its client has come back with a new session")
      }
    }
  }
}
