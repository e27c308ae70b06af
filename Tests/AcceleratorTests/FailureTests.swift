import Accelerator
import Flows
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("When something fails, a pair of accelerators")
  struct FailureTests {
    @Test("says at once that the server refuses", arguments: Way.allCases)
    func refused(way: Way) async throws {
      try await Pair.with { pair in
        let head = try await onThread { try pair.connect(to: try Socket.freePort(), host: way.rawValue).head }
        #expect(head.hasPrefix("HTTP/1.1 502 Connection Refused\r\n"))
        try await pair.waitForNoFlows()
      }
    }

    @Test("passes a RST on, from either side", arguments: Way.allCases, [true, false])
    func reset(way: Way, byServer: Bool) async throws {
      try await Pair.with { pair in
        let (client, server) = try await pair.flow(host: way.rawValue)
        try await onThread {
          try client.write([1]); #expect(try server.read(exactly: 1) == [1])
          (byServer ? server : client).reset()
          #expect(try (byServer ? client : server).endsWithReset())
        }
        try await pair.waitForNoFlows()
      }
    }

    @Test("passes a RST on that comes after a FIN", arguments: Way.allCases)
    func resetAfterEnd(way: Way) async throws {
      try await Pair.with { pair in
        let (client, server) = try await pair.flow(host: way.rawValue)
        try await onThread {
          client.endOutput()
          let atServer = try server.readToEnd()
          #expect(atServer.isEmpty)
          client.reset()
          // The server learns of it as TCP tells: it may write until the RST is there.
          #expect(server.writingFails(within: .seconds(10)))
        }
        try await pair.waitForNoFlows()
      }
    }

    @Test("survives RSTs of both sides that cross, with data under way", arguments: Way.allCases)
    func crossingResets(way: Way) async throws {
      try await Pair.with { pair in
        for _ in 0..<20 {
          let (client, server) = try await pair.flow(host: way.rawValue)
          async let one: Void = onThread {
            _ = try? client.writeSome(pattern(50_000, seed: 1)); client.reset()
          }
          async let other: Void = onThread {
            _ = try? server.writeSome(pattern(50_000, seed: 2)); server.reset()
          }
          _ = try await (one, other)
        }
        try await pair.waitForNoFlows()
        let (client, server) = try await pair.flow(host: way.rawValue)
        #expect(try await exchange(client, [1], server, [2]).atClient == [2])
      }
    }

    @Test("resets the flows of a tunnel that is cut, dials again, and carries new ones")
    func cut() async throws {
      try await Pair.with { pair in
        let (client, server) = try await pair.flow()
        async let sending: Int32 = onThread {
          let block = pattern(100_000, seed: 1)
          do { while true { try client.write(block) } } catch let failure as Socket.Failure { return failure.code }
        }
        try await onThread { _ = try server.read(exactly: 1_000_000) }
        try await pair.a.cutTunnels()
        #expect(try await onThread { try server.endsWithReset() })
        #expect(try await sending == ECONNRESET)
        try await pair.waitForConnections(1)
        try await pair.waitForNoFlows()
        let (next, nextServer) = try await pair.flow()
        let got = try await exchange(next, pattern(200_000, seed: 2), nextServer, pattern(200_000, seed: 3))
        #expect(got.atServer == pattern(200_000, seed: 2) && got.atClient == pattern(200_000, seed: 3))
      }
    }

    @Test("goes on when one of them is started again")
    func restart() async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { try? FileManager.default.removeItem(atPath: key) }
      let loopback = Endpoint("127.0.0.1:0")!
      let tunnel = Endpoint(address: loopback.address, port: try Socket.freePort())
      let log = LogBook()
      var settings = AcceleratorSettings(
        node: "a", keyFile: key, entrance: loopback, peers: [.init(node: "b", tunnel: tunnel)], routes: [.init("127.0.0.1/32=b")!])
      settings.entrances.bypass = .refuse
      let a = AcceleratorService(settings: settings, logger: log.logger("a"))
      @Sendable func makeB() -> AcceleratorService {
        AcceleratorService(settings: AcceleratorSettings(node: "b", keyFile: key, tunnel: tunnel), logger: Pair.quiet)
      }
      try await Pair.running(a) { places in
        let entrance = try #require(places.entrance).port
        let (first, firstB) = (try Socket.listen(), makeB())
        let kept = Mutex<Socket?>(nil)  // the server must not be the one who ends the connection
        let client = try await onThread { try Socket.connect(entrance) }  // before b is there at all: it waits for it
        try client.write(Array("CONNECT 127.0.0.1:\(first.port) HTTP/1.1\r\n\r\n".utf8))
        try await Pair.running(firstB) { _ in
          #expect(try await onThread { try client.head() }.hasPrefix("HTTP/1.1 200 "))
          let server = try await onThread { try first.socket.accept() }
          kept.withLock { $0 = server }
          try await onThread {
            try server.write([7]); #expect(try client.read(exactly: 1) == [7])
          }
        }
        // b has been stopped: its flows end with a RST and not with an end of data.
        #expect(try await onThread { try client.endsWithReset() })
        try await log.wait(for: "tunnel with b is down: the peer says: b is being stopped")
        let secondB = makeB()
        try await Pair.running(secondB) { _ in
          let pair = Pair(a: a, b: secondB, entrance: entrance, tunnel: tunnel.port)
          try await pair.waitForConnections(1)
          try await log.wait(for: "peer b is back")
          let (next, server) = try await pair.flow()
          #expect(try await exchange(next, pattern(100_000, seed: 1), server, []).atServer == pattern(100_000, seed: 1))
        }
      }
    }

    @Test("turns garbage on the tunnel port away, and goes on", arguments: UInt64(1)...4)
    func garbage(seed: UInt64) async throws {
      let log = LogBook()
      try await Pair.with(.init(loggerOfB: log.logger("b"))) { pair in
        let (client, server) = try await pair.flow()
        try await onThread {
          for part in [pattern(65_536, seed: seed), Array("GET / HTTP/1.1\r\n\r\n".utf8), [0x16, 3, 1, 2, 0]] {
            let stranger = try Socket.connect(pair.tunnel)
            do {
              try stranger.write(part)
              #expect(try stranger.readToEnd().isEmpty)
            } catch let failure as Socket.Failure where failure.code == ECONNRESET || failure.code == EPIPE {}
          }
        }
        try await log.wait(for: "these are not the first octets of a Longhaul tunnel")
        let got = try await exchange(client, pattern(100_000, seed: seed), server, pattern(100_000, seed: seed + 9))
        #expect(got.atServer == pattern(100_000, seed: seed) && got.atClient == pattern(100_000, seed: seed + 9))
      }
    }

    @Test("with different keys stays apart, both logs say what to do, and applications get an error")
    func wrongKey() async throws {
      let (logOfA, logOfB) = (LogBook(), LogBook())
      var options = Pair.Options(
        keyOfA: "ffeeddccbbaa99887766554433221100", loggerOfA: logOfA.logger("a"), loggerOfB: logOfB.logger("b"), connections: 0)
      options.entrances.bypass = .refuse
      try await Pair.with(options) { pair in
        try await logOfA.wait(for: "have different keys; give both the same --key-file")
        try await logOfB.wait(for: "have different keys; give both the same --key-file")
        #expect(try await pair.a.establishedConnections(to: "b") == 0)
        let head = try await onThread { try pair.connect(to: 9).head }
        #expect(head.hasPrefix("HTTP/1.1 502 Tunnel Lost\r\n"))
      }
    }

    @Test("with a wrong name for the peer stays apart, and both logs say who is who")
    func wrongName() async throws {
      let (logOfA, logOfB) = (LogBook(), LogBook())
      let options = Pair.Options(peerName: "c", loggerOfA: logOfA.logger("a"), loggerOfB: logOfB.logger("b"), connections: 0)
      try await Pair.with(options) { _ in
        try await logOfA.wait(for: "a looks for c here, but this is b")
        try await logOfB.wait(for: "a looks for c here, but this is b")
      }
    }

    @Test("gives a client up that never finishes its CONNECT, however slowly it goes on", arguments: ["", "CONN", "drip"])
    func slowHandshake(start: String) async throws {
      try await Pair.with(.init(entranceLimit: .milliseconds(Int64(150)))) { pair in
        try await onThread {
          let socket = try Socket.connect(pair.entrance)
          if start == "drip" {
            let head = Array("CONNECT 127.0.0.1:9 HTTP/1.1\r\nX: \(String(repeating: "x", count: 8_000))".utf8)
            for octet in head where !socket.hasInput { try socket.write([octet]); usleep(2_000) }
          } else {
            try socket.write(Array(start.utf8))
          }
          #expect(try socket.head().hasPrefix("HTTP/1.1 408 "))
        }
      }
    }

    @Test(
      "answers what is no CONNECT with HTTP's own errors",
      arguments: [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 405 "), ("CONNECT nowhere HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "),
        ("\u{16}\u{3}\u{1}", "HTTP/1.1 400 "), ("CONNECT name.invalid:80 HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Unknown Host"),
      ])
    func badRequests(request: String, answer: String) async throws {
      try await Pair.with { pair in
        try await onThread {
          let socket = try Socket.connect(pair.entrance)
          try socket.write(Array(request.utf8))
          #expect(try socket.head().hasPrefix(answer))
          _ = try socket.readToEnd()
        }
      }
    }

    @Test("says in one line that its port is taken")
    func busyPort() async throws {
      let key = try Pair.keyFile(Pair.key)
      defer { try? FileManager.default.removeItem(atPath: key) }
      let (taken, port) = try Socket.listen()
      let place = Endpoint("127.0.0.1:\(port)")!
      let service = AcceleratorService(settings: AcceleratorSettings(node: "a", keyFile: key, tunnel: place), logger: Pair.quiet)
      await #expect(throws: AcceleratorError.cannotListen(place, option: "--tunnel", reason: "Address already in use")) {
        try await service.run()
      }
      withExtendedLifetime(taken) {}
    }
  }
}
