import Accelerator
import Synchronization
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("The order to warm a tunnel")
  struct WarmingTests {
    @Test("opens both directions of every connection, and leaves the way to data")
    func opens() async throws {
      let (logOfA, logOfB) = (LogBook(), LogBook())
      let options = Pair.Options(
        rateLimit: .megabitsPerSecond(800), loggerOfA: logOfA.logger("a"), loggerOfB: logOfB.logger("b"), connections: 4)
      try await Pair.with(options) { pair in
        pair.a.handle(.warm(peer: "b", rate: .megabitsPerSecond(100), roundTripMilliseconds: 10, holdMilliseconds: 60_000))
        try await logOfA.wait(for: "tunnel to b warm: cwnd", times: 4)
        try await logOfB.wait(for: "tunnel to a warm: cwnd", times: 4)
        let (client, server) = try await pair.flow()
        let got = try await exchange(client, pattern(500_000, seed: 1), server, pattern(500_000, seed: 2))
        #expect(got.atServer == pattern(500_000, seed: 1) && got.atClient == pattern(500_000, seed: 2))
        // Padding is nothing that a flow has sent.
        #expect(try await pair.a.statistics().plainSent == 500_000)
      }
    }

    @Test("is not needed where tunnels are kept warm: they open as soon as they are up, and again when they had to be dialled again")
    func withoutOrder() async throws {
      let (logOfA, logOfB) = (LogBook(), LogBook())
      let options = Pair.Options(
        rateLimit: .megabitsPerSecond(800), keepsWarm: true, loggerOfA: logOfA.logger("a"), loggerOfB: logOfB.logger("b"), connections: 4)
      try await Pair.with(options) { pair in
        try await logOfA.wait(for: "tunnel to b warm: cwnd", times: 4)
        try await logOfB.wait(for: "tunnel to a warm: cwnd", times: 4)
        try await pair.a.cutTunnels()
        try await logOfA.wait(for: "tunnel to b warm: cwnd", times: 8)
        try await logOfB.wait(for: "tunnel to a warm: cwnd", times: 8)
      }
    }

    @Test("is followed although somebody types over the tunnel all the time")
    func besideKeystrokes() async throws {
      let log = LogBook()
      let options = Pair.Options(rateLimit: .megabitsPerSecond(800), loggerOfA: log.logger("a"), connections: 4)
      try await Pair.with(options) { pair in
        let (client, server) = try await pair.flow()
        let isOver = Mutex(false)
        async let echo: Void = onThread { while case let octets = try server.read(), !octets.isEmpty { try server.write(octets) } }
        async let typing: Void = onThread {
          while !isOver.withLock({ $0 }) {
            try client.write([1])
            #expect(try client.read(exactly: 1) == [1])
          }
          client.endOutput()
        }
        pair.a.handle(.warm(peer: "b", rate: .megabitsPerSecond(100), roundTripMilliseconds: 10, holdMilliseconds: 60_000))
        try await log.wait(for: "tunnel to b warm: cwnd", times: 4)
        isOver.withLock { $0 = true }
        _ = try await (typing, echo)
      }
    }

    @Test("that comes while data is under way does not disturb it")
    func duringData() async throws {
      try await Pair.with(.init(connections: 4)) { pair in
        let (client, server) = try await pair.flow()
        async let got = exchange(client, pattern(20_000_000, seed: 1), server, pattern(20_000_000, seed: 2))
        for _ in 0..<20 {
          pair.a.handle(.warm(peer: "b", rate: .megabitsPerSecond(1_000), roundTripMilliseconds: 50, holdMilliseconds: 1_000))
          try await Task.sleep(for: .milliseconds(5))
        }
        let (atServer, atClient) = try await got
        #expect(atServer == pattern(20_000_000, seed: 1) && atClient == pattern(20_000_000, seed: 2))
      }
    }

    @Test("for a node that is no peer is one line of the log")
    func stranger() async throws {
      let log = LogBook()
      try await Pair.with(.init(loggerOfA: log.logger("a"))) { pair in
        pair.a.handle(.warm(peer: "nobody", rate: .megabitsPerSecond(100), roundTripMilliseconds: 10, holdMilliseconds: 1_000))
        try await log.wait(for: "cannot warm the tunnel to nobody")
      }
    }
  }
}
