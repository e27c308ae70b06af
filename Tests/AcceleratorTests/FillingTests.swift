import Accelerator
import ChunkStores
import Foundation
import TestSupport
import Testing
import Vocabulary

/// Three accelerators: a at the clients' side, b beside a machine, c beside its future place. The machine answers at 127.0.0.1 behind b, and then at 127.0.0.2 behind c.
private struct Trio: Sendable {
  let pair: Pair
  let c: AcceleratorService
  let logOfB: LogBook

  static func with(_ body: @escaping @Sendable (Trio) async throws -> Void) async throws {
    let file = try Pair.keyFile(Pair.key)
    defer { try? FileManager.default.removeItem(atPath: file) }
    let loopback = Endpoint("127.0.0.1:0")!
    @Sendable func settings(_ node: NodeID, _ peers: [AcceleratorSettings.Peer] = []) -> AcceleratorSettings {
      AcceleratorSettings(node: node, keyFile: file, tunnel: loopback, peers: peers, loops: 2)
    }
    let logOfB = LogBook()
    let c = AcceleratorService(settings: settings("c"), logger: Pair.quiet)
    try await Pair.running(c) { placesOfC in
      let toC = AcceleratorSettings.Peer(node: "c", tunnel: try #require(placesOfC.tunnel))
      let b = AcceleratorService(settings: settings("b", [toC]), logger: logOfB.logger("b"))
      try await Pair.running(b) { placesOfB in
        let tunnel = try #require(placesOfB.tunnel)
        var settingsOfA = AcceleratorSettings(
          node: "a", keyFile: file, entrance: loopback, peers: [.init(node: "b", tunnel: tunnel), toC],
          routes: [.init(prefix: IPPrefix("127.0.0.1/32")!, peer: "b"), .init(prefix: IPPrefix("127.0.0.2/32")!, peer: "c")], loops: 2)
        settingsOfA.cache = .memory(.mebibytes(64))
        let a = AcceleratorService(settings: settingsOfA, logger: Pair.quiet)
        try await Pair.running(a) { placesOfA in
          let pair = Pair(a: a, b: b, entrance: try #require(placesOfA.entrance).port, tunnel: tunnel.port)
          for (node, peer) in [(a, "b"), (a, "c"), (b, "c")] as [(AcceleratorService, NodeID)] {
            let until = ContinuousClock.now + .seconds(10)
            while try await node.establishedConnections(to: peer) < 2 {
              try #require(ContinuousClock.now < until, "the tunnel to \(peer) did not come up")
              try await Task.sleep(for: .milliseconds(2))
            }
          }
          try await body(Trio(pair: pair, c: c, logOfB: logOfB))
        }
      }
    }
  }

  /// A download from the machine, and how many of its octets the one beside it sent over the tunnel.
  func download(_ bytes: [UInt8], from host: String) async throws -> Int {
    let sender = host == "127.0.0.1" ? pair.b : c
    let before = try await sender.statistics()
    let (client, server) = try await pair.flow(host: host)
    #expect(try await exchange(client, [], server, bytes).atClient == bytes)
    let until = ContinuousClock.now + .seconds(10)
    while try await sender.flowCount() > 0 {
      try #require(ContinuousClock.now < until, "a flow is left")
      try await Task.sleep(for: .milliseconds(2))
    }
    return try await sender.statistics().wireSent - before.wireSent
  }
}

extension Loopback {
  @Suite("The cache that goes ahead of a machine")
  struct FillingTests {
    static let source = IPAddress("127.0.0.1")!
    static let bytes = pattern(8 << 20, seed: 11)

    @Test("the first download after the move takes names alone: at most a hundredth of its octets")
    func ahead() async throws {
      try await Trio.with { trio in
        #expect(try await trio.download(Self.bytes, from: "127.0.0.1") > Self.bytes.count * 98 / 100)
        trio.pair.b.handle(.fill(peer: "c", service: Self.source, holdMilliseconds: 30_000))
        try await trio.logOfB.wait(for: "c has been told what others have of 127.0.0.1")
        // Behind the names on another connection of the tunnel, perhaps: looked at until it is known.
        let wire = try await trio.download(Self.bytes, from: "127.0.0.2")
        #expect(wire <= Self.bytes.count / 100, "\(wire) of \(Self.bytes.count) octets went over the tunnel")
      }
    }

    @Test("without it, and after FREEZE has stopped it, they go in full; an order that comes again tells what is new")
    func stopped() async throws {
      try await Trio.with { trio in
        _ = try await trio.download(Self.bytes, from: "127.0.0.1")
        trio.pair.b.handle(.fill(peer: "c", service: Self.source, holdMilliseconds: 0))
        let first = pattern(2 << 20, seed: 12)
        #expect(try await trio.download(first, from: "127.0.0.2") > first.count * 98 / 100)
        trio.pair.b.handle(.fill(peer: "c", service: Self.source, holdMilliseconds: 30_000))
        try await trio.logOfB.wait(for: "c has been told", times: 1)
        let second = pattern(2 << 20, seed: 13)
        _ = try await trio.download(second, from: "127.0.0.1")
        trio.pair.b.handle(.fill(peer: "c", service: Self.source, holdMilliseconds: 30_000))
        try await trio.logOfB.wait(for: "c has been told", times: 2)
        #expect(try await trio.download(second, from: "127.0.0.2") <= second.count / 20)  // a busy machine may break some chunks
      }
    }

    @Test("a peer that there is no tunnel to is named in one line")
    func noTunnel() async throws {
      try await Trio.with { trio in
        trio.pair.b.handle(.fill(peer: "nobody", service: Self.source, holdMilliseconds: 30_000))
        try await trio.logOfB.wait(for: "cannot tell nobody what is cached of 127.0.0.1")
      }
    }

    @Test("a client's accelerator that has lost its chunks says so, and gets every octet")
    func wrong() async throws {
      try await Trio.with { trio in
        _ = try await trio.download(Self.bytes, from: "127.0.0.1")
        trio.pair.b.handle(.fill(peer: "c", service: Self.source, holdMilliseconds: 30_000))
        try await trio.logOfB.wait(for: "c has been told")
        // 64 MiB of others push it out.
        for seed in 20..<UInt64(30) { _ = try await trio.download(pattern(8 << 20, seed: seed), from: "127.0.0.1") }
        let wire = try await trio.download(Self.bytes, from: "127.0.0.2")
        #expect(wire >= Self.bytes.count * 98 / 100)
        #expect(try await trio.c.statistics().missingSent > 100)
      }
    }
  }
}
