import Accelerator
import Authentication
import Client
import Control
import Foundation
import TestSupport
import Testing
import Vocabulary

@Suite("A session that runs", .serialized, .timeLimit(.minutes(2)))
struct PathChangeTests {
  /// An accelerator without peers: it splits.
  static func accelerator(_ journey: Journey) -> AcceleratorService {
    AcceleratorService(
      settings: AcceleratorSettings(node: "a", keyFile: journey.keyFile, entrance: Endpoint("127.0.0.1:0")!),
      logger: LogBook.logger(journey.log))
  }

  @Test("moves onto an accelerator and off again, with no migration; no octet is lost, and the old path goes on until the new one answers")
  func ontoAndOff() async throws {
    try await Journey.with { journey in
      let accelerator = Self.accelerator(journey)
      try await Journey.running({ try await accelerator.run(ready: $0) }) { (places: AcceleratorPlaces) in
        let path = PathChoice.accelerated(entrance: try #require(places.entrance), accelerators: ["a"])
        let flow = try await Flow(journey)
        for round in 0..<3 {
          try flow.ask(20_000_000, UInt8(round))
          try await journey.go(0, epoch: UInt64(10 + 2 * round), path: path)
          try await journey.moved(epoch: UInt64(10 + 2 * round))
          try await journey.go(0, epoch: UInt64(11 + 2 * round))
          try await journey.moved(epoch: UInt64(11 + 2 * round))
          #expect(try await flow.get(20_000_000, UInt8(round)))
          #expect(try await flow.works())
        }
        #expect(journey.wires[0].accepted == 7, "one connection for each change, through the accelerator or not")
      }
    }
  }

  @Test(
    "stays where it is when the path that it is told to take does not work, and says so",
    arguments: ["nobody listens", "it answers 502", "nobody answers"])
  func staysWhereItIs(trouble: String) async throws {
    try await Journey.with { journey in
      let flow = try await Flow(journey)
      let (silent, silentPort) = try Socket.listen()
      let accelerator = Self.accelerator(journey)
      try await Journey.running({ try await accelerator.run(ready: $0) }) { (places: AcceleratorPlaces) in
        let entrance: Endpoint
        switch trouble {
        case "nobody listens": entrance = Endpoint("127.0.0.1:\(try Socket.freePort())")!
        case "nobody answers": entrance = Endpoint("127.0.0.1:\(silentPort)")!
        default:
          entrance = try #require(places.entrance)
          journey.wires[0].refuse()
        }
        try flow.ask(5_000_000, 4)
        try await journey.go(0, epoch: 10, path: .accelerated(entrance: entrance, accelerators: ["a"]))
        try await journey.reported(by: journey.client) { if case .stuck("vm", 10, _) = $0 { true } else { false } }
        #expect(try await flow.get(5_000_000, 4))
        #expect(try await flow.works())
        #expect(journey.wires[0].accepted == 1, "the first carrier was never left")
        // And what comes later is followed as ever.
        try await journey.go(1, epoch: 11)
        try await journey.moved(epoch: 11)
        #expect(try await flow.works())
      }
      _ = silent
    }
  }
}

/// Two accelerators in this process: a at the client's side, b beside the places of the agent.
struct Tunnel: Sendable {
  let a: AcceleratorService
  let b: AcceleratorService
  let path: PathChoice

  static func with(_ journey: Journey, _ body: @escaping @Sendable (Tunnel) async throws -> Void) async throws {
    let b = AcceleratorService(
      settings: AcceleratorSettings(node: "b", keyFile: journey.keyFile, tunnel: Endpoint("127.0.0.1:0")!),
      logger: LogBook.logger(journey.log))
    try await Journey.running({ try await b.run(ready: $0) }) { (placesOfB: AcceleratorPlaces) in
      let a = AcceleratorService(
        settings: AcceleratorSettings(
          node: "a", keyFile: journey.keyFile, entrance: Endpoint("127.0.0.1:0")!,
          peers: [.init(node: "b", tunnel: try #require(placesOfB.tunnel))], routes: [.init(prefix: IPPrefix("127.0.0.0/8")!, peer: "b")]),
        logger: LogBook.logger(journey.log))
      try await Journey.running({ try await a.run(ready: $0) }) { (placesOfA: AcceleratorPlaces) in
        let until = ContinuousClock.now + .seconds(10)
        while try await a.establishedConnections(to: "b") == 0 {
          try #require(ContinuousClock.now < until, "the tunnel did not come up")
          try await Task.sleep(for: .milliseconds(2))
        }
        try await body(Tunnel(a: a, b: b, path: .accelerated(entrance: try #require(placesOfA.entrance), accelerators: ["a", "b"])))
      }
    }
  }

  /// PREPARE for a place, until the first flight is parked at b.
  func park(_ place: Int, _ journey: Journey) async throws {
    b.handle(.expect(agent: journey.place(place), holdMilliseconds: 60_000))
    _ = try await b.flowCount()  // answered behind the order: a busy loop reads its sockets first
    try await journey.prepare(place, path: path)
    let until = ContinuousClock.now + .seconds(10)
    while try await b.flowCount() == 0 {
      try #require(ContinuousClock.now < until, "no flight was parked")
      try await Task.sleep(for: .milliseconds(2))
    }
  }
}

@Suite("A handover with its first flight parked", .serialized, .timeLimit(.minutes(2)))
struct ParkedHandoverTests {
  @Test("is done before GO comes, and loses nothing", arguments: [true, false])
  func early(freezes: Bool) async throws {
    try await Journey.with { journey in
      try await Tunnel.with(journey) { tunnel in
        let flow = try await Flow(journey)
        try flow.ask(10_000_000)
        try await tunnel.park(1, journey)
        if freezes { try await journey.client.order(.freeze(migration: "m", machine: "vm")) }
        tunnel.b.handle(.arrived(agent: journey.place(1)))
        try await journey.logged("has moved by its parked first flight")
        #expect(try await flow.get(10_000_000))
        try await journey.go(1, epoch: 5, path: tunnel.path)
        try await journey.moved(epoch: 5)
        #expect(try await flow.works())
        #expect(journey.wires[1].accepted == 1)
      }
    }
  }

  @Test("is rolled back: the flight was never seen, and the next handover parks another", arguments: [true, false])
  func rollBack(freezes: Bool) async throws {
    try await Journey.with { journey in
      try await Tunnel.with(journey) { tunnel in
        let flow = try await Flow(journey)
        try await tunnel.park(1, journey)
        if freezes { try await journey.client.order(.freeze(migration: "m", machine: "vm")) }
        let order = NodeOrder.rollBack(migration: "m", machine: "vm", agent: journey.place(1))
        try await journey.agent.order(order)
        try await journey.client.order(order)
        #expect(try await flow.works())
        let until = ContinuousClock.now + .seconds(10)
        while try await tunnel.b.flowCount() > 0 {
          try #require(ContinuousClock.now < until, "b still holds the flight")
          try await Task.sleep(for: .milliseconds(2))
        }
        tunnel.b.handle(.withdrawn(agent: journey.place(1)))
        #expect(journey.wires[1].accepted == 0)
        try await tunnel.park(1, journey)
        tunnel.b.handle(.arrived(agent: journey.place(1)))
        try await journey.logged("has moved by its parked first flight")
        #expect(try await flow.works())
      }
    }
  }

  @Test("whose GO leads elsewhere lets the flight go and follows it")
  func elsewhere() async throws {
    try await Journey.with { journey in
      try await Tunnel.with(journey) { tunnel in
        let flow = try await Flow(journey)
        try await tunnel.park(1, journey)
        try await journey.go(2, epoch: 5)
        try await journey.moved(epoch: 5)
        tunnel.b.handle(.arrived(agent: journey.place(1)))
        #expect(try await flow.works())
      }
    }
  }

  @Test("reaches the client through the agent with the path of its PREPARE")
  func throughAgent() async throws {
    try await Journey.with { journey in
      try await Tunnel.with(journey) { tunnel in
        let flow = try await Flow(journey)
        try await tunnel.park(1, journey)
        try await journey.agent.order(.go(migration: "m", token: journey.token(1, epoch: 5)))
        try await journey.logged("GO: machine vm is at \(journey.place(1))")
        tunnel.b.handle(.arrived(agent: journey.place(1)))
        try await journey.moved(epoch: 5)
        #expect(try await flow.works())
        #expect(journey.wires[1].accepted == 1, "the parked flight, and no direct carrier")
      }
    }
  }
}
