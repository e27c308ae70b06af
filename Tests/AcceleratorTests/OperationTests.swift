import Accelerator
import Flows
import Foundation
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("A running accelerator")
  struct OperationTests {
    private struct Broken: Error, CustomStringConvertible { let description = "settings a.yaml:3: tunnel: wrong" }

    /// One end of a pair, ready to be started.
    private func settings(_ node: NodeID, key: String, _ change: (inout AcceleratorSettings) -> Void) -> AcceleratorSettings {
      var settings = AcceleratorSettings(node: node, keyFile: key)
      change(&settings)
      return settings
    }

    private let loopback = Endpoint("127.0.0.1:0")!

    @Test("takes peers and routes when told to read its settings again, and living flows do not notice")
    func reload() async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { try? FileManager.default.removeItem(atPath: key) }
      let log = LogBook()
      let b = AcceleratorService(settings: settings("b", key: key) { $0.tunnel = loopback }, logger: Pair.quiet)
      let c = AcceleratorService(settings: settings("c", key: key) { $0.tunnel = loopback }, logger: Pair.quiet)
      try await Pair.running(b) { placesOfB in
        try await Pair.running(c) { placesOfC in
          let first = self.settings("a", key: key) {
            $0.entrance = self.loopback
            $0.peers = [.init(node: "b", tunnel: placesOfB.tunnel!)]
            $0.routes = [.init("127.0.0.1/32=b")!]
          }
          let a = AcceleratorService(settings: first, logger: log.logger("a"))
          try await Pair.running(a) { places in
            let pair = Pair(a: a, b: b, entrance: places.entrance!.port, tunnel: placesOfB.tunnel!.port)
            try await pair.waitForConnections(1)
            let (old, oldServer) = try await pair.flow()
            await a.reload {
              var second = first
              second.peers = [.init(node: "c", tunnel: placesOfC.tunnel!)]
              second.routes = [.init("127.0.0.1/32=c")!]
              second.connectionsPerPeer = 2
              second.rateLimit = .megabitsPerSecond(800)
              return second
            }
            try await log.wait(for: "settings taken")
            let until = ContinuousClock.now + .seconds(10)
            while try await a.establishedConnections(to: "c") < 2 {
              try #require(ContinuousClock.now < until, "the new peer was not dialled")
              try await Task.sleep(for: .milliseconds(2))
            }
            let (new, newServer) = try await pair.flow()
            #expect(try await c.flowCount() == 1)
            #expect(try await exchange(new, [1], newServer, [2]).atClient == [2])
            // The flow by way of b has lived on; with it the last connection to b goes.
            #expect(try await a.establishedConnections(to: "b") == 1)
            #expect(try await exchange(old, pattern(300_000, seed: 1), oldServer, [4]).atServer == pattern(300_000, seed: 1))
            while try await a.establishedConnections(to: "b") > 0 {
              try #require(ContinuousClock.now < until, "connections to the former peer are left")
              try await Task.sleep(for: .milliseconds(2))
            }
          }
        }
      }
    }

    @Test("says which settings count only after a restart, and goes on with the former ones")
    func fixed() async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { try? FileManager.default.removeItem(atPath: key) }
      let log = LogBook()
      let first = settings("a", key: key) { $0.entrance = loopback }
      let a = AcceleratorService(settings: first, logger: log.logger("a"))
      try await Pair.running(a) { places in
        await a.reload {
          var second = first
          second.entrance = Endpoint("127.0.0.9:1")!
          second.loops = 3
          second.cache = .none
          return second
        }
        try await log.wait(for: "settings: entrance, loops, cache changed; that counts after a restart")
        _ = try await onThread { try Socket.connect(places.entrance!.port) }
      }
    }

    @Test("keeps its settings when the new ones are broken")
    func broken() async throws {
      let log = LogBook()
      try await Pair.with(.init(loggerOfA: log.logger("a"))) { pair in
        await pair.a.reload { throw Broken() }
        try await log.wait(for: "settings not taken, the former ones hold: settings a.yaml:3: tunnel: wrong")
        let (client, server) = try await pair.flow()
        #expect(try await exchange(client, [1], server, [2]).atServer == [1])
      }
    }

    /// Drains one end of a pair, with a flow that lives.
    private func draining(
      theEntrance: Bool, limit: TimeSpan, _ body: @escaping @Sendable (Pair, LogBook, Socket, Socket) async throws -> Void
    ) async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { try? FileManager.default.removeItem(atPath: key) }
      let log = LogBook()
      let b = AcceleratorService(
        settings: settings("b", key: key) {
          $0.tunnel = loopback
          $0.drain = limit
        }, logger: log.logger("b"))
      try await Pair.running(b) { placesOfB in
        let a = AcceleratorService(
          settings: self.settings("a", key: key) {
            $0.entrance = self.loopback
            $0.peers = [.init(node: "b", tunnel: placesOfB.tunnel!)]
            $0.routes = [.init("127.0.0.1/32=b")!]
            $0.drain = limit
          }, logger: log.logger("a"))
        try await Pair.running(a) { places in
          let pair = Pair(a: a, b: b, entrance: places.entrance!.port, tunnel: placesOfB.tunnel!.port)
          try await pair.waitForConnections(1)
          let (client, server) = try await pair.flow()
          (theEntrance ? a : b).drain()
          try await log.wait(for: "stopping: nothing new is taken in, and 1 flow has")
          try await body(pair, log, client, server)
        }
      }
    }

    @Test("that is told to stop lets its flows end first, at either end", arguments: [true, false])
    func drain(theEntrance: Bool) async throws {
      try await draining(theEntrance: theEntrance, limit: .seconds(Int64(60))) { _, log, client, server in
        #expect(try await exchange(client, pattern(500_000, seed: 1), server, pattern(400_000, seed: 2)).atClient.count == 400_000)
        try await log.wait(for: "all flows have ended")
        try await log.wait(for: "tunnel with \(theEntrance ? "b" : "a") is down")
      }
    }

    @Test("that is told to stop resets what has not ended in time", arguments: [true, false])
    func drainOver(theEntrance: Bool) async throws {
      try await draining(theEntrance: theEntrance, limit: .milliseconds(200 as Int64)) { _, log, client, server in
        try await log.wait(for: "1 flow was still open after 0 s, and is reset")
        #expect(try await onThread { try server.endsWithReset() })
        #expect(try await onThread { try client.endsWithReset() })
      }
    }

    @Test("that is told to stop takes no new connection at its entrance")
    func drainCloses() async throws {
      try await draining(theEntrance: true, limit: .seconds(Int64(60))) { pair, log, client, server in
        #expect(throws: Socket.Failure.self) { try Socket.connect(pair.entrance) }
        _ = try await exchange(client, [1], server, [2])
        try await log.wait(for: "all flows have ended")
      }
    }

    @Test("opens no flow at a peer that is about to stop")
    func peerLeaves() async throws {
      try await draining(theEntrance: false, limit: .seconds(Int64(60))) { pair, log, client, server in
        // It waits for the peer to come back, as for one that has gone, and is told so.
        let head = try await onThread { try pair.connect(to: try Socket.freePort()).head }
        #expect(head.hasPrefix("HTTP/1.1 502 "))
        #expect(try await pair.b.flowCount() == 1)
        _ = try await exchange(client, [1], server, [2])
        try await log.wait(for: "all flows have ended")
      }
    }
  }
}
