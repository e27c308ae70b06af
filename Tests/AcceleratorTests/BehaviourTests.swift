import Accelerator
import Flows
import Glibc
import Synchronization
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("Through a pair of accelerators, as through none,")
  struct BehaviourTests {
    @Test("an urgent octet keeps its place in the stream, in both directions", arguments: Way.allCases, [true, false])
    func urgent(way: Way, isUp: Bool) async throws {
      try await Pair.with { pair in
        let (client, server) = try await pair.flow(host: way.rawValue)
        let (from, to) = isUp ? (client, server) : (server, client)
        let (before, after) = (pattern(50_000, seed: 1), pattern(50_000, seed: 2))
        async let got = onThread { try to.readToEnd() }
        try await onThread {
          try from.write(before)
          try from.writeUrgent(0xf2)
          try from.write(after)
          from.endOutput()
        }
        #expect(try await got == before + [0xf2] + after)
      }
    }

    @Test("no small message waits for company while a bulk flow fills the same connection", arguments: [true, false])
    func interactive(isBulkUp: Bool) async throws {
      try await Pair.with(.init(tunnels: 1)) { pair in
        let (bulk, bulkServer) = try await pair.flow()
        let (from, to) = isBulkUp ? (bulk, bulkServer) : (bulkServer, bulk)
        let isOver = Mutex(false)
        async let sent = onThread {
          let block = pattern(256 << 10, seed: 1)
          var count = 0
          while !isOver.withLock({ $0 }) { try from.write(block); count += block.count }
          from.endOutput()
          return count
        }
        async let received = onThread {
          var count = 0
          while case let part = try to.read(), !part.isEmpty { count += part.count }
          return count
        }
        let (client, server) = try await pair.flow()
        async let echo: Void = onThread { for _ in 0..<200 { try server.write(try server.read(exactly: 32)) } }
        // Each round waits for the one before: what is held back for company stands still until the sockets' limit.
        try await onThread {
          defer { isOver.withLock { $0 = true } }
          for round in 0..<UInt64(200) {
            let message = pattern(32, seed: round)
            try client.write(message)
            #expect(try client.read(exactly: 32) == message)
          }
        }
        try await echo
        let (there, here) = try await (sent, received)
        #expect(there == here && there > 0)
      }
    }

    @Test("a RST in the middle of a transfer ends it at the other side, from either side", arguments: Way.allCases, [true, false])
    func resetInTransfer(way: Way, byServer: Bool) async throws {
      try await Pair.with { pair in
        let (client, server) = try await pair.flow(host: way.rawValue)
        let (leaves, stays) = byServer ? (server, client) : (client, server)
        async let sending: Int32 = onThread {
          let block = pattern(100_000, seed: 1)
          do { while true { try stays.write(block) } } catch let failure as Socket.Failure { return failure.code }
        }
        try await onThread {
          _ = try leaves.read(exactly: 1_000_000)
          leaves.reset()
        }
        let code = try await sending
        #expect(code == ECONNRESET || code == EPIPE, "not that nobody reads (EAGAIN), but that nobody is there")
        try await pair.waitForNoFlows()
      }
    }

    @Test("a client that is killed in the middle of a download gets all of it when it is run again", arguments: Way.allCases)
    func runAgain(way: Way) async throws {
      try await Pair.with { pair in
        let whole = pattern(6_000_000, seed: 5)
        for isKilled in [true, false, true, false] {
          let (client, server) = try await pair.flow(host: way.rawValue)
          async let serving: Bool = onThread {
            do { try server.write(whole); server.endOutput(); return true } catch is Socket.Failure { return false }
          }
          if isKilled {
            #expect(try await onThread { try client.read(exactly: 1_000_000) }.elementsEqual(whole.prefix(1_000_000)))
            client.reset()
            #expect(try await onThread { server.writingFails(within: .seconds(10)) })
            _ = try await serving
          } else {
            #expect(try await onThread { try client.readToEnd() } == whole)
            #expect(try await serving)
            client.endOutput()
          }
        }
        try await pair.waitForNoFlows()
      }
    }

    @Test("transfers end with a RST at both ends when an accelerator is stopped, and new ones work when it is back", arguments: ["a", "b"])
    func restarted(which: String) async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { unlink(key) }
      let loopback = IPAddress("127.0.0.1")!
      let (entrance, tunnel) = (
        Endpoint(address: loopback, port: try Socket.freePort()), Endpoint(address: loopback, port: try Socket.freePort())
      )
      @Sendable func make(_ name: String) -> AcceleratorService {
        var settings = AcceleratorSettings(node: NodeID(name), keyFile: key)
        if name == "b" {
          settings.tunnel = tunnel
        } else {
          settings.entrance = entrance
          settings.peers = [.init(node: "b", tunnel: tunnel)]
          settings.routes = [.init("127.0.0.1/32=b")!]
          settings.entrances.bypass = .refuse
        }
        return AcceleratorService(settings: settings, logger: Pair.quiet)
      }
      let stays = make(which == "a" ? "b" : "a")
      @Sendable func pair(_ other: AcceleratorService) -> Pair {
        Pair(a: which == "a" ? other : stays, b: which == "a" ? stays : other, entrance: entrance.port, tunnel: tunnel.port)
      }
      try await Pair.running(stays) { _ in
        let ends = Mutex<[Socket]>([])
        let first = make(which)
        try await Pair.running(first) { _ in
          try await pair(first).waitForConnections(1)
          for _ in 0..<4 {
            let (client, server) = try await pair(first).flow()
            let block = pattern(200_000, seed: 1)
            try await onThread {
              try client.write(block); try server.write(block)
            }
            #expect(try await onThread { try client.read(exactly: 1_000) + server.read(exactly: 1_000) }.count == 2_000)
            ends.withLock { $0 += [client, server] }
          }
        }
        for end in ends.withLock({ $0 }) { #expect(try await onThread { try end.endsWithReset() }) }
        let second = make(which)
        try await Pair.running(second) { _ in
          try await pair(second).waitForConnections(1)
          let (client, server) = try await pair(second).flow()
          let got = try await exchange(client, pattern(300_000, seed: 3), server, text(300_000, seed: 4))
          #expect(got.atServer == pattern(300_000, seed: 3) && got.atClient == text(300_000, seed: 4))
        }
      }
    }

    @Test("no wrong octet arrives where the sender's chunks are not what their names say, and the peer asks for them")
    func forged() async throws {
      let (here, there) = (ForgedStore(capacity: 64 << 20), ForgetfulStore(capacity: 64 << 20, seed: 1))
      try await Pair.with(.init(storeOfA: here, storeOfB: there)) { pair in
        let bytes = pattern(4 << 20, seed: 11)
        let (client, server) = try await pair.flow()
        #expect(try await exchange(client, bytes, server, []).atServer == bytes)
        there.lose()
        here.lie()
        let (again, serverAgain) = try await pair.flow()
        async let sending: Void? = onThread {
          try? again.write(bytes); again.endOutput()
        }
        let (got, isReset) = try await onThread {
          var got: [UInt8] = []
          do {
            while case let part = try serverAgain.read(), !part.isEmpty { got += part }
            return (got, false)
          } catch let failure as Socket.Failure where failure.code == ECONNRESET {
            return (got, true)
          }
        }
        _ = try await sending
        #expect(try await pair.a.statistics().missingSent > 0 || isReset, "the peer asked for nothing, so nothing was shown")
        // All of it, or the beginning and a RST: never anything else.
        #expect(isReset ? bytes.starts(with: got) : got == bytes)
      }
    }

    @Test("a network that is unreachable is reported as that, by every entrance", arguments: WayIn.allCases)
    func unreachable(wayIn: WayIn) async throws {
      let nowhere = "224.0.0.1"  // TCP has no multicast: Linux says ENETUNREACH, whatever the machine's routes are
      try await Pair.with(nowhere, 80) { pair in
        let outcome = try await pair.outcome(wayIn, nowhere, 80)
        #expect(outcome == wayIn.word(for: .unreachable))
      }
    }
  }
}
