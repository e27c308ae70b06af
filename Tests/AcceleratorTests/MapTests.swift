import Accelerator
import Control
import Flows
import Foundation
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("Peers by the controller's map")
  struct MapTests {
    /// a, which has been told of no peer, and b.
    static func with(
      patience: TimeSpan = .seconds(Int64(30)),
      _ body: @escaping @Sendable (Pair, _ b: PeerPlace) async throws -> Void
    ) async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { try? FileManager.default.removeItem(atPath: key) }
      let loopback = Endpoint("127.0.0.1:0")!
      let far = AcceleratorService(settings: AcceleratorSettings(node: "b", keyFile: key, tunnel: loopback), logger: Pair.quiet)
      var settings = AcceleratorSettings(node: "a", keyFile: key, entrance: loopback)
      settings.mapPatience = patience
      let near = AcceleratorService(settings: settings, logger: Pair.quiet)
      try await Pair.running(far) { placesOfFar in
        try await Pair.running(near) { places in
          let tunnel = try #require(placesOfFar.tunnel)
          let pair = Pair(a: near, b: far, entrance: try #require(places.entrance).port, tunnel: tunnel.port, places: places)
          try await body(pair, PeerPlace(node: "b", tunnel: tunnel, prefixes: [IPPrefix("127.0.0.1/32")!]))
        }
      }
    }

    @Test("are dialled, and flows to what lies beside them go through")
    func comes() async throws {
      try await MapTests.with { pair, b in
        let (client, server) = try await pair.flow()
        #expect(try await exchange(client, [1], server, [2]).atClient == [2])
        #expect(try await pair.a.passedThrough()[.noRoute] == 1)
        pair.a.handle(.peers(map: [b, PeerPlace(node: "a", tunnel: b.tunnel, prefixes: b.prefixes)]))
        try await pair.waitForConnections(1)
        let (next, nextServer) = try await pair.flow()
        #expect(try await pair.b.flowCount() == 1)
        #expect(try await exchange(next, pattern(100_000, seed: 1), nextServer, [4]).atServer == pattern(100_000, seed: 1))
      }
    }

    @Test("are kept for a while when the map leaves them out, as after a controller's restart")
    func kept() async throws {
      try await MapTests.with { pair, b in
        pair.a.handle(.peers(map: [b]))
        try await pair.waitForConnections(1)
        pair.a.handle(.peers(map: []))
        let (client, server) = try await pair.flow()
        #expect(try await pair.b.flowCount() == 1)
        pair.a.handle(.peers(map: [b]))
        #expect(try await exchange(client, [1], server, [2]).atClient == [2])
        #expect(try await pair.a.passedThrough().total == 0)
      }
    }

    @Test("that are gone for longer keep their living flows and get no new ones")
    func goes() async throws {
      try await MapTests.with(patience: .milliseconds(Int64(50))) { pair, b in
        pair.a.handle(.peers(map: [b]))
        try await pair.waitForConnections(1)
        let (client, server) = try await pair.flow()
        pair.a.handle(.peers(map: []))
        let until = ContinuousClock.now + .seconds(10)
        while true {
          let (next, nextServer) = try await pair.flow()
          #expect(try await exchange(next, [3], nextServer, [4]).atClient == [4])
          if try await pair.a.passedThrough()[.noRoute] > 0 { break }
          try #require(ContinuousClock.now < until, "flows still go through b")
        }
        #expect(try await exchange(client, pattern(200_000, seed: 1), server, [2]).atServer == pattern(200_000, seed: 1))
        while try await pair.a.establishedConnections(to: "b") > 0 {
          try #require(ContinuousClock.now < until, "the tunnel still stands")
          try await Task.sleep(for: .milliseconds(2))
        }
      }
    }
  }
}
