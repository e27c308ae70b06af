import Accelerator
import Foundation
import LinuxNetwork
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("A connection that is intercepted on its way", .enabled(if: mayIntercept, "needs root and nft, for network namespaces"))
  struct TransparencyTests {
    @Test("shows client and server each other's own address, and ends as they end it", arguments: [true, false])
    func bothAddresses(isPaired: Bool) async throws {
      try await InPath.with { path in
        try await path.running(isPaired: isPaired) { _, far in
          let (client, server, port) = try await path.flow()
          #expect(client.peer == Socket.End(InPath.serverHost, port))
          #expect(server.peer == client.local && server.peer.host == InPath.clientHost)
          #expect(try await far.flowCount() == (isPaired ? 1 : 0))
          let got = try await exchange(client, pattern(3_000_000, seed: 1), server, text(3_000_000, seed: 2))
          #expect(got.atServer == pattern(3_000_000, seed: 1) && got.atClient == text(3_000_000, seed: 2))
          // Without these the flow may have passed by itself.
          #expect(try InPath.rulesOfA.packets("intercepted", in: path.a) == 1)
          #expect(try InPath.rulesOfA.packets("diverted", in: path.a) > 10)
          #expect(try InPath.rulesOfB.packets("diverted", in: path.b) > (isPaired ? 10 : -1))
        }
      }
    }

    @Test("without --keep-source shows the server the accelerator that dials it", arguments: [true, false])
    func ownAddress(isPaired: Bool) async throws {
      try await InPath.with { path in
        try await path.running(isPaired: isPaired, keepsSource: false) { _, _ in
          let (client, server, port) = try await path.flow()
          #expect(client.peer == Socket.End(InPath.serverHost, port))
          #expect(server.peer.host == (isPaired ? InPath.hostOfB : InPath.hostOfA))
          #expect(try await exchange(client, [1, 2], server, [3]).atClient == [3])
        }
      }
    }

    @Test("to a server that refuses is reset at once, and not ended", arguments: [true, false])
    func refused(isPaired: Bool) async throws {
      try await InPath.with { path in
        try await path.running(isPaired: isPaired) { near, _ in
          let isReset = try await path.on(path.client) {
            do { return try Socket.connect(9, at: InPath.serverHost).endsWithReset() } catch let failure as Socket.Failure {
              return failure.code == ECONNRESET  // the RST was quicker than connect's return
            }
          }
          #expect(isReset)
          #expect(try InPath.rulesOfA.packets("intercepted", in: path.a) == 1)
        }
      }
    }

    @Test("to a host that is unreachable is reset at once", arguments: [true, false])
    func unreachable(isPaired: Bool) async throws {
      try await InPath.with { path in
        try (isPaired ? path.b : path.a).ip("route", "add", "unreachable", "10.211.3.200/32")
        try await path.running(isPaired: isPaired) { _, _ in
          let isReset = try await path.on(path.client) {
            do { return try Socket.connect(80, at: 0x0ad3_03c8).endsWithReset() } catch let failure as Socket.Failure {
              return failure.code == ECONNRESET
            }
          }
          #expect(isReset)
        }
      }
    }

    @Test("passes a RST on, from either side", arguments: [true, false], [true, false])
    func reset(isPaired: Bool, byServer: Bool) async throws {
      try await InPath.with { path in
        try await path.running(isPaired: isPaired) { _, _ in
          let (client, server, _) = try await path.flow()
          try await onThread {
            try client.write([1]); #expect(try server.read(exactly: 1) == [1])
            (byServer ? server : client).reset()
            #expect(try (byServer ? client : server).endsWithReset())
          }
        }
      }
    }

    @Test("passes untouched while no accelerator runs, and is left alone when one comes back")
    func failToWire() async throws {
      try await InPath.with { path in
        let before = try await path.flow()
        #expect(before.server.peer == before.client.local)
        #expect(try InPath.rulesOfA.packets("intercepted", in: path.a) == 0)
        try await path.running(isPaired: true) { _, _ in
          let taken = try await path.flow()
          #expect(try InPath.rulesOfA.packets("intercepted", in: path.a) == 1)
          // The one that was under way still passes by itself.
          #expect(try await exchange(before.client, pattern(200_000, seed: 1), before.server, [7]).atServer == pattern(200_000, seed: 1))
          #expect(try await exchange(taken.client, [1], taken.server, [2]).atClient == [2])
          #expect(try InPath.rulesOfA.packets("intercepted", in: path.a) == 1)
        }
        let after = try await path.flow()
        #expect(after.server.peer == after.client.local)
        #expect(try await exchange(after.client, [1], after.server, [2]).atClient == [2])
        #expect(try InPath.rulesOfA.packets("intercepted", in: path.a) == 1)
      }
    }

    @Test("falls back to the accelerator's address where the client's cannot be had, and the log says so once")
    func sourceTaken() async throws {
      try await InPath.with { path in
        try path.b.set(["net.ipv4.ip_nonlocal_bind": "1"])
        let ports: [UInt16] = [40_001, 40_002]
        let taken = try await path.on(path.b) { try ports.map { try Socket.listen(at: InPath.clientHost, port: $0).socket } }
        let log = LogBook()
        try await path.running(isPaired: true, log: log) { _, _ in
          for port in ports {
            let (client, server, _) = try await path.flow(from: port)
            #expect(server.peer.host == InPath.hostOfB)
            #expect(try await exchange(client, [1], server, [2]).atClient == [2])
          }
          try await log.wait(for: "sees this machine's address, not the client's 10.211.1.2:40001: Address already in use")
          #expect(log.text.components(separatedBy: "sees this machine's address").count == 2)
        }
        withExtendedLifetime(taken) {}
      }
    }

    @Test("and goes directly has the congestion control of the policy on both legs", arguments: [EntranceSettings.Congestion.cubic, .bbr])
    func congestion(control: EntranceSettings.Congestion) async throws {
      try await InPath.with { path in
        try await path.running(isPaired: false, congestion: control) { _, _ in
          let (client, server, _) = try await path.flow()
          try client.write([1])
          #expect(try await onThread { try server.read(exactly: 1) } == [1])  // it is joined, then
          let words = try Shell.run(path.a.command(["ss", "-tinH"])).split(whereSeparator: \.isWhitespace)
          #expect(words.count { $0 == control.rawValue } == 2, "\(words)")
        }
      }
    }

    @Test("is not what a connection to the entrance itself is: that one is reset")
    func toTheEntranceItself() async throws {
      try await InPath.with { path in
        try await path.running(isPaired: false) { near, _ in
          let isReset = try await path.on(path.a) {
            do { return try Socket.connect(InPath.entrance.port).endsWithReset() } catch let failure as Socket.Failure {
              return failure.code == ECONNRESET
            }
          }
          #expect(isReset)
          let (client, server, _) = try await path.flow()
          #expect(try await exchange(client, [1], server, [2]).atClient == [2])
        }
      }
    }

    @Test("needs rules that can be installed twice, and removed")
    func rules() async throws {
      try await InPath.with { path in
        @Sendable func lines(_ command: String...) throws -> Int {
          try Shell.run(path.a.command(command)).split(separator: "\n").count { $0.contains("19528") || $0.contains("longhaul") }
        }
        try InPath.rulesOfA.install(in: path.a)
        #expect(try lines("ip", "rule") == 1 && lines("nft", "list", "tables") == 1)
        try InPath.rulesOfA.remove(in: path.a)
        #expect(try lines("ip", "rule") == 0 && lines("nft", "list", "tables") == 0)
        try InPath.rulesOfA.remove(in: path.a)
        // What is printed does the same.
        try Shell.run(path.a.command(["sh", "-e"]), input: InPath.rulesOfA.script(removing: false))
        #expect(try lines("ip", "rule") == 1 && lines("nft", "list", "tables") == 1)
        try Shell.run(path.a.command(["sh", "-e"]), input: InPath.rulesOfA.script(removing: true))
        #expect(try lines("ip", "rule") == 0 && lines("nft", "list", "tables") == 0)
      }
    }
  }
}
