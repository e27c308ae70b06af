import Accelerator
import Glibc
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("By every entrance")
  struct EntranceTests {
    @Test("octets go both ways, with both half-closes", arguments: WayIn.allCases, Way.allCases)
    func bothWays(wayIn: WayIn, way: Way) async throws {
      let (listener, port) = try Socket.listen()
      try await Pair.with(way.rawValue, port) { pair in
        let (client, answer) = try await onThread { try pair.come(in: wayIn, to: way.rawValue, port, early: Array("hello".utf8)) }
        #expect(answer == .connected)
        let server = try await onThread { try listener.accept() }
        #expect(try await onThread { try server.read(exactly: 5) } == Array("hello".utf8))
        let got = try await exchange(client, pattern(300_000, seed: 1), server, text(300_000, seed: 2))
        #expect(got.atServer == pattern(300_000, seed: 1) && got.atClient == text(300_000, seed: 2))
        try await pair.waitForNoFlows()
      }
    }

    @Test("a server that speaks first is heard", arguments: WayIn.allCases, Way.allCases)
    func serverFirst(wayIn: WayIn, way: Way) async throws {
      let (listener, port) = try Socket.listen()
      try await Pair.with(way.rawValue, port) { pair in
        let (client, _) = try await onThread { try pair.come(in: wayIn, to: way.rawValue, port) }
        let server = try await onThread { try listener.accept() }
        try server.write(Array("220 ready\r\n".utf8))
        #expect(try await onThread { try client.read(exactly: 11) } == Array("220 ready\r\n".utf8))
      }
    }

    @Test("a server that refuses is reported at once, as that", arguments: WayIn.allCases, Way.allCases)
    func refused(wayIn: WayIn, way: Way) async throws {
      let port = try Socket.freePort()
      try await Pair.with(way.rawValue, port) { pair in
        #expect(try await pair.outcome(wayIn, way.rawValue, port) == wayIn.word(for: .refused))
        try await pair.waitForNoFlows()
      }
    }

    @Test("a host that nobody knows is reported as that", arguments: WayIn.allCases)
    func unknown(wayIn: WayIn) async throws {
      try await Pair.with("name.invalid", 80) { pair in
        let outcome = try await pair.outcome(wayIn, "name.invalid", 80)
        #expect(outcome == wayIn.word(for: .unknownHost))
      }
    }

    @Test("a host that does not answer is reported when its time is over, as that", arguments: WayIn.allCases, Way.allCases)
    func silent(wayIn: WayIn, way: Way) async throws {
      let (full, port, _) = try await onThread { try SilentServer.make() }
      var options = Pair.Options()
      options.entrances.dialLimit = .milliseconds(Int64(300))
      try await Pair.with(way.rawValue, port, options) { pair in
        #expect(try await pair.outcome(wayIn, way.rawValue, port) == wayIn.word(for: .timedOut))
        try await pair.waitForNoFlows()
      }
      withExtendedLifetime(full) {}
    }

    @Test("a client that goes while its server does not answer leaves nothing behind", arguments: WayIn.allCases, Way.allCases)
    func goneWhileDialling(wayIn: WayIn, way: Way) async throws {
      let (full, port, fillers) = try await onThread { try SilentServer.make() }
      try await Pair.with(way.rawValue, port) { pair in
        let client = try await onThread { try pair.ask(wayIn, way.rawValue, port) }
        if way == .tunnel {
          let until = ContinuousClock.now + .seconds(10)
          while try await pair.b.flowCount() == 0, ContinuousClock.now < until { try await Task.sleep(for: .milliseconds(2)) }
        }
        client.reset()
        try await pair.waitForNoFlows()
        let until = ContinuousClock.now + .seconds(10)
        while try await pair.a.enteredCount() > 0 { try #require(ContinuousClock.now < until); try await Task.sleep(for: .milliseconds(2)) }
      }
      withExtendedLifetime((full, fillers)) {}
    }

    @Test("garbage ends that connection, and no other", arguments: WayIn.allCases, UInt64(1)...3)
    func garbage(wayIn: WayIn, seed: UInt64) async throws {
      let (listener, port) = try Socket.listen()
      try await Pair.with("127.0.0.1", port) { pair in
        let (client, server) = try await pair.flow()
        let entrance = [WayIn.connect: pair.entrance, .socks: pair.places.socks?.port, .forward: pair.places.forwards.first?.port][wayIn]
        let stranger = try await onThread { try Socket.connect(entrance.flatMap { $0 } ?? 0) }
        let noise = pattern(65_536, seed: seed)
        if wayIn == .forward {  // there is no garbage for a forward: all octets are the server's
          let served = try await onThread { try listener.accept() }
          #expect(try await exchange(stranger, noise, served, []).atServer == noise)
        } else {
          #expect(
            try await onThread {
              try? stranger.write(noise)
              do { return try stranger.readToEnd().count < 512 } catch let failure as Socket.Failure where failure.code == ECONNRESET {
                return true
              }
            })
        }
        #expect(try await exchange(client, [1, 2], server, [3]).atServer == [1, 2])
        try await pair.waitForNoFlows()
      }
    }
  }
}

/// A server that is there and never answers a SYN: nobody accepts, and its queue is full.
enum SilentServer {
  static func make() throws -> (listener: Socket, port: UInt16, fillers: [Socket]) {
    let (listener, port) = try Socket.listen(backlog: 0)
    return (listener, port, [try Socket.connect(port)])
  }
}

extension Pair {
  /// Comes in, sends a little, and tells how that ended, also where the way in has no answer of its own.
  func outcome(_ wayIn: WayIn, _ host: String, _ port: UInt16) async throws -> WayIn.Answer {
    try await onThread {
      let (socket, answer) = try self.come(in: wayIn, to: host, port, early: [1, 2, 3])
      guard wayIn == .forward, answer == .connected else { return answer }
      return try socket.endsWithReset() ? .reset : .other("an end without a RST")
    }
  }

  /// Says where it wants to go, and waits for no answer.
  func ask(_ wayIn: WayIn, _ host: String, _ port: UInt16) throws -> Socket {
    switch wayIn {
    case .connect:
      let socket = try Socket.connect(entrance)
      try socket.write(Array("CONNECT \(host):\(port) HTTP/1.1\r\n\r\n".utf8))
      return socket
    case .socks:
      let socket = try Socket.connect(places.socks?.port ?? 0)
      try socket.write([5, 1, 0, 5, 1, 0, 3, UInt8(host.utf8.count)] + Array(host.utf8) + [UInt8(port >> 8), UInt8(port & 255)])
      return socket
    case .forward: return try Socket.connect(places.forwards.first?.port ?? 0)
    }
  }
}
