import Accelerator
import ChunkStores
import Compression
import Dedup
import NIOCore
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("The byte cache between two accelerators")
  struct CacheTests {
    /// Sends `bytes` up on a flow of its own, and what that came to at a.
    private static func upload(_ bytes: [UInt8], _ pair: Pair) async throws -> FlowStatistics {
      let before = try await pair.a.statistics()
      let (client, server) = try await pair.flow()
      #expect(try await exchange(client, bytes, server, []).atServer == bytes)
      try await pair.waitForNoFlows()
      return try await pair.a.statistics() - before
    }

    private static func download(_ bytes: [UInt8], _ pair: Pair) async throws -> FlowStatistics {
      let before = try await pair.b.statistics()
      let (client, server) = try await pair.flow()
      #expect(try await exchange(client, [], server, bytes).atClient == bytes)
      try await pair.waitForNoFlows()
      return try await pair.b.statistics() - before
    }

    @Test(
      "sends names for what has gone by: at most a hundredth, on another flow and in the other direction, on one loop and on two",
      arguments: [1, 2])
    func secondPass(loops: Int) async throws {
      try await Pair.with(.init(loops: loops, connections: loops)) { pair in
        let bytes = pattern(8 << 20, seed: 7)
        let first = try await Self.upload(bytes, pair)
        #expect(first.wireSent > bytes.count * 98 / 100)
        let second = try await Self.upload(bytes, pair)
        #expect(second.wireSent <= bytes.count / 100, "\(second.wireSent) of \(bytes.count) octets went over the tunnel")
        let back = try await Self.download(bytes, pair)
        #expect(back.wireSent <= bytes.count / 100, "\(back.wireSent) of \(bytes.count) octets came back over the tunnel")
      }
    }

    @Test("knows the answers of a conversation when it is held again, though each begins with other octets")
    func conversation() async throws {
      try await Pair.with { pair in
        var sent: [FlowStatistics] = []
        for round in UInt8(1)...3 {
          let before = try await pair.b.statistics()
          let (client, server) = try await pair.flow()
          for number in UInt64(0)..<12 {
            let answer = [round] + pattern(60_000, seed: number)
            try await onThread {
              try client.write([1])
              _ = try server.read(exactly: 1)
              try server.write(answer)
              #expect(try client.read(exactly: answer.count) == answer)
            }
            // Whoever asks over a WAN is silent for a round trip: that tells the end of an answer from a pause.
            try await Task.sleep(for: .milliseconds(40))
          }
          client.endOutput()
          server.endOutput()
          try await pair.waitForNoFlows()
          sent.append(try await pair.b.statistics() - before)
        }
        // The first chunk of each answer is new, and on a busy machine some more.
        #expect(sent[2].referencedSent > 12 * 30_000, "\(sent[2].referencedSent) of 720,000 octets went as names")
      }
    }

    @Test("keeps tenants' chunks apart by their names")
    func tenants() {
      let bytes: [UInt8] = Array("the same octets".utf8)
      let names = ["", "red", "blue"].map { tenant in bytes.withUnsafeBytes { ChunkNamer(tenant: tenant)($0) } }
      #expect(Set(names).count == 3)
      #expect(names[1] == bytes.withUnsafeBytes { ChunkNamer(tenant: "red")($0) })
    }

    @Test("costs time, never octets, when the peer has lost all of its chunks, and is warm again after")
    func lost() async throws {
      let (here, there) = (MemoryChunkStore(capacity: 64 << 20), ForgetfulStore(capacity: 64 << 20, seed: 1))
      try await Pair.with(.init(storeOfA: here, storeOfB: there)) { pair in
        let bytes = pattern(8 << 20, seed: 8)
        _ = try await Self.upload(bytes, pair)
        there.lose()
        let asked = try await Self.upload(bytes, pair)
        #expect(asked.missingSent > 100)
        #expect(asked.wireSent >= bytes.count && asked.wireSent < bytes.count + bytes.count / 50)
        #expect(try await Self.upload(bytes, pair).wireSent <= bytes.count / 100)
      }
    }

    @Test("never gives out a wrong octet though chunks are forgotten at any moment", arguments: UInt64(1)...3)
    func forgetful(seed: UInt64) async throws {
      let here = ForgetfulStore(capacity: 4 << 20, seed: seed, forgets: 0.1)
      let there = ForgetfulStore(capacity: 4 << 20, seed: seed + 100, forgets: 0.1)
      try await Pair.with(.init(storeOfA: here, storeOfB: there)) { pair in
        try await withThrowingTaskGroup(of: Void.self) { group in
          for number in 0..<UInt64(12) {
            group.addTask {
              for round in 0..<UInt64(3) {
                let (up, down) = (pattern(400_000, seed: number % 3 + round % 2), text(400_000, seed: number % 3))
                let (client, server) = try await pair.flow()
                let got = try await exchange(client, up, server, down)
                #expect(got.atServer == up && got.atClient == down)
              }
            }
          }
          try await group.waitForAll()
        }
        try await pair.waitForNoFlows()
        #expect(try await pair.a.statistics().missingSent > 0)
      }
    }

    @Test("of two chunks serves 48 flows at once")
    func tiny() async throws {
      try await Pair.with(.init(cache: .memory(CacheSettings.smallest))) { pair in
        try await withThrowingTaskGroup(of: Void.self) { group in
          for number in 0..<UInt64(48) {
            group.addTask {
              let (up, down) = (pattern(200_000, seed: number % 5), pattern(200_000, seed: number % 7))
              let (client, server) = try await pair.flow()
              let got = try await exchange(client, up, server, down)
              #expect(got.atServer == up && got.atClient == down)
            }
          }
          try await group.waitForAll()
        }
        try await pair.waitForNoFlows()
      }
    }

    @Test("is not used where one end has none", arguments: [true, false])
    func oneSided(isOfA: Bool) async throws {
      let store = MemoryChunkStore(capacity: 8 << 20)
      try await Pair.with(.init(cache: .none, storeOfA: isOfA ? store : nil, storeOfB: isOfA ? nil : store)) { pair in
        let bytes = pattern(1 << 20, seed: 9)
        _ = try await Self.upload(bytes, pair)
        let again = try await Self.upload(bytes, pair)
        #expect(again.referencedSent == 0)
        #expect(store.figures.chunks == 0)
      }
    }
  }
}

extension FlowStatistics {
  fileprivate static func - (a: FlowStatistics, b: FlowStatistics) -> FlowStatistics {
    var difference = FlowStatistics()
    difference.wireSent = a.wireSent - b.wireSent
    difference.referencedSent = a.referencedSent - b.referencedSent
    difference.missingSent = a.missingSent - b.missingSent
    return difference
  }
}
