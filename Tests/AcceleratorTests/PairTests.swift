import Accelerator
import Flows
import Glibc
import TestSupport
import Testing
import Vocabulary

/// The way of a flow: through the tunnel, or directly from a to its target.
enum Way: String, CaseIterable, Sendable {
  case tunnel = "127.0.0.1"
  case direct = "127.0.0.2"
}

extension Loopback {
  @Suite("A pair of accelerators")
  struct PairTests {
    @Test(
      "carries octets both ways at once, whole and in order, with both half-closes", arguments: [0, 1, 1_000, 32_768, 32_769, 6_000_000],
      [true, false])
    func bothWays(count: Int, isText: Bool) async throws {
      try await Pair.with { pair in
        for way in Way.allCases {
          let up = isText ? text(count, seed: 1) : pattern(count, seed: 1)
          let down = isText ? text(count, seed: 2) : pattern(count, seed: 2)
          let (client, server) = try await pair.flow(host: way.rawValue)
          let got = try await exchange(client, up, server, down)
          #expect(got.atServer == up)
          #expect(got.atClient == down)
        }
        try await pair.waitForNoFlows()
      }
    }

    @Test("carries octets on several event loops", arguments: [2, 3])
    func loops(count: Int) async throws {
      try await Pair.with(.init(loops: count, connections: count)) { pair in
        try await withThrowingTaskGroup(of: Void.self) { group in
          for seed in 0..<UInt64(8) {
            group.addTask {
              let (up, down) = (pattern(300_000, seed: seed), text(300_000, seed: seed))
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

    @Test("lets the server answer after the client has ended its sending, and the client after the server has", arguments: Way.allCases)
    func halfClose(way: Way) async throws {
      try await Pair.with { pair in
        let (client, server) = try await pair.flow(host: way.rawValue)
        try await onThread {
          try client.write(Array("request".utf8)); client.endOutput()
          #expect(try server.readToEnd() == Array("request".utf8))
          try server.write(Array("reply".utf8)); server.endOutput()
          #expect(try client.readToEnd() == Array("reply".utf8))
        }
        let (other, otherServer) = try await pair.flow(host: way.rawValue)
        try await onThread {
          otherServer.endOutput()
          #expect(try other.readToEnd().isEmpty)
          try other.write(pattern(100_000, seed: 3)); other.endOutput()
          #expect(try otherServer.readToEnd() == pattern(100_000, seed: 3))
        }
        try await pair.waitForNoFlows()
      }
    }

    @Test("passes every small message on at once", arguments: Way.allCases)
    func pingPong(way: Way) async throws {
      try await Pair.with { pair in
        let (client, server) = try await pair.flow(host: way.rawValue)
        async let echo: Void = onThread { for _ in 0..<200 { try server.write(try server.read(exactly: 32)) } }
        // Each round waits for the one before: anything held back for company would stand still until the sockets' limit.
        try await onThread {
          for round in 0..<UInt64(200) {
            let message = pattern(32, seed: round)
            try client.write(message)
            #expect(try client.read(exactly: 32) == message)
          }
        }
        try await echo
      }
    }

    @Test("serves 500 short connections and forgets them all")
    func shortConnections() async throws {
      try await Pair.with { pair in
        let (listener, port) = try Socket.listen()
        let files = openFiles()
        async let serving: Void = onThread {
          for _ in 0..<500 {
            let served = try listener.accept()
            try served.write(try served.readToEnd())
          }
        }
        try await withThrowingTaskGroup(of: Void.self) { group in
          for worker in 0..<UInt64(8) {
            group.addTask {
              try await onThread {
                for number in stride(from: worker, to: 500, by: 8) {
                  let socket = try pair.connected(to: port)
                  try socket.write(pattern(100, seed: number))
                  socket.endOutput()
                  #expect(try socket.readToEnd() == pattern(100, seed: number))
                }
              }
            }
          }
          try await group.waitForAll()
        }
        try await serving
        try await pair.waitForNoFlows()
        // Sockets close a moment after their flow is forgotten.
        let until = ContinuousClock.now + .seconds(10)
        while openFiles() > files + 8, ContinuousClock.now < until { try await Task.sleep(for: .milliseconds(5)) }
        #expect(openFiles() <= files + 8)
      }
    }

    private func openFiles() -> Int {
      guard let directory = opendir("/proc/self/fd") else { return 0 }
      defer { closedir(directory) }
      var count = 0
      while readdir(directory) != nil { count += 1 }
      return count
    }

    @Test("sends no faster than its rate limit")
    func rateLimit() async throws {
      try await Pair.with(.init(rateLimit: .megabitsPerSecond(80))) { pair in
        let (client, server) = try await pair.flow()
        let start = ContinuousClock.now
        let got = try await exchange(client, pattern(4_000_000, seed: 1), server, [])
        #expect(got.atServer.count == 4_000_000)
        #expect(ContinuousClock.now - start > .milliseconds(200))  // 4 MB x 8 / 80 Mbit/s = 400 ms; only the lower half is asserted
      }
    }
  }
}
