import Accelerator
import Flows
import Foundation
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("A flow whose peer")
  struct BypassTests {
    /// a alone, with a route to b, whose tunnel nobody answers yet.
    static func alone(
      _ bypass: EntranceSettings.Bypass = .direct, limits: FlowLimits? = nil,
      _ body:
        @escaping @Sendable (AcceleratorService, AcceleratorPlaces, _ makeB: @escaping @Sendable () -> AcceleratorService) async throws ->
        Void
    ) async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { try? FileManager.default.removeItem(atPath: key) }
      let loopback = Endpoint("127.0.0.1:0")!
      let tunnel = Endpoint(address: loopback.address, port: try Socket.freePort())
      var settings = AcceleratorSettings(
        node: "a", keyFile: key, entrance: loopback, peers: [.init(node: "b", tunnel: tunnel)], routes: [.init("127.0.0.1/32=b")!],
        connectionsPerPeer: 1, limits: limits)
      settings.entrances.bypass = bypass
      let a = AcceleratorService(settings: settings, logger: Pair.quiet)
      try await Pair.running(a) { places in
        try await body(a, places) {
          AcceleratorService(settings: AcceleratorSettings(node: "b", keyFile: key, tunnel: tunnel, limits: limits), logger: Pair.quiet)
        }
      }
    }

    @Test("is away goes directly, and through the tunnel again when the peer is back")
    func away() async throws {
      try await BypassTests.alone { a, places, makeB in
        let b = makeB()
        let pair = Pair(a: a, b: b, entrance: try #require(places.entrance).port, tunnel: 0, places: places)
        let (client, server) = try await pair.flow()
        #expect(try await exchange(client, pattern(100_000, seed: 1), server, [2]).atServer == pattern(100_000, seed: 1))
        #expect(try await a.passedThrough()[.peerAway] == 1)
        try await Pair.running(b) { _ in
          try await pair.waitForConnections(1)
          let (client, server) = try await pair.flow()
          #expect(try await b.flowCount() == 1)
          #expect(try await exchange(client, pattern(100_000, seed: 3), server, [4]).atClient == [4])
          #expect(try await a.passedThrough()[.peerAway] == 1)
        }
        let (third, thirdServer) = try await pair.flow()
        #expect(try await exchange(third, [5], thirdServer, [6]).atClient == [6])
        #expect(try await a.passedThrough()[.peerAway] == 2)
        #expect(try await a.passedThrough().total == 2)
      }
    }

    @Test("is away says directly what the target says")
    func awayAndRefused() async throws {
      try await BypassTests.alone { a, places, makeB in
        let pair = Pair(a: a, b: makeB(), entrance: try #require(places.entrance).port, tunnel: 0, places: places)
        let head = try await onThread { try pair.connect(to: try Socket.freePort()).head }
        #expect(head.hasPrefix("HTTP/1.1 502 Connection Refused\r\n"))
      }
    }

    @Test("goes while it is under way ends with a RST at both ends; the next one goes directly")
    func goes() async throws {
      try await BypassTests.alone { a, places, makeB in
        let b = makeB()
        let pair = Pair(a: a, b: b, entrance: try #require(places.entrance).port, tunnel: 0, places: places)
        let ends = Ends()
        try await Pair.running(b) { _ in
          try await pair.waitForConnections(1)
          let (client, server) = try await pair.flow()
          try client.write([1])
          #expect(try await onThread { try server.read(exactly: 1) } == [1])
          await ends.keep(client, server)
        }
        for end in await ends.all { #expect(try await onThread { try end.endsWithReset() }) }
        let (client, server) = try await pair.flow()
        #expect(try await exchange(client, [5], server, [6]).atClient == [6])
      }
    }

    @Test("has no place for it goes directly, and one more when a place is free goes through")
    func full() async throws {
      try await BypassTests.alone(limits: FlowLimits(window: 1 << 20, maximumFlows: 2)) { a, places, makeB in
        let b = makeB()
        let pair = Pair(a: a, b: b, entrance: try #require(places.entrance).port, tunnel: 0, places: places)
        try await Pair.running(b) { _ in
          try await pair.waitForConnections(1)
          let (first, second, third) = (try await pair.flow(), try await pair.flow(), try await pair.flow())
          #expect(try await a.passedThrough()[.peerFull] == 1)
          #expect(try await b.flowCount() == 2)
          #expect(try await exchange(third.client, pattern(50_000, seed: 1), third.server, [1]).atServer.count == 50_000)
          #expect(try await exchange(first.client, [1], first.server, [2]).atClient == [2])
          #expect(try await exchange(second.client, [1], second.server, [2]).atClient == [2])
          try await pair.waitForNoFlows()
          let next = try await pair.flow()
          #expect(try await b.flowCount() == 1)
          #expect(try await exchange(next.client, [1], next.server, [2]).atClient == [2])
          #expect(try await a.passedThrough().total == 1)
        }
      }
    }

    @Test("is away is refused where the policy says so, and counted")
    func refused() async throws {
      try await BypassTests.alone(.refuse, limits: FlowLimits(window: 1 << 20, maximumFlows: 1)) { a, places, makeB in
        let b = makeB()
        let pair = Pair(a: a, b: b, entrance: try #require(places.entrance).port, tunnel: 0, places: places)
        try await Pair.running(b) { _ in
          try await pair.waitForConnections(1)
          let (client, server) = try await pair.flow()
          #expect(try await onThread { try pair.connect(to: 9).head }.hasPrefix("HTTP/1.1 503 Too Many Flows\r\n"))
          #expect(try await exchange(client, [1], server, [2]).atClient == [2])
        }
        #expect(try await onThread { try pair.connect(to: 9).head }.hasPrefix("HTTP/1.1 502 Tunnel Lost\r\n"))
        let passed = try await a.passedThrough()
        #expect(passed.refused == 2 && passed[.peerFull] == 1 && passed[.peerAway] == 1)
      }
    }

    private actor Ends {
      private(set) var all: [Socket] = []
      func keep(_ ends: Socket...) { all += ends }
    }
  }
}
