import Accelerator
import Glibc
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("A flow to a machine that is on its way")
  struct ParkedFlowTests {
    /// A flow with early octets that b holds; `body` gets the client's socket, the service's listener and where the service is.
    func withParked(
      hold: Int64 = 60_000, _ body: @escaping @Sendable (Pair, _ client: Socket, _ listener: Socket, _ agent: Endpoint) async throws -> Void
    ) async throws {
      try await Pair.with { pair in
        let (listener, port) = try Socket.listen()
        let agent = Endpoint(address: IPAddress("127.0.0.1")!, port: port)
        pair.b.handle(.expect(agent: agent, holdMilliseconds: hold))
        _ = try await pair.b.flowCount()  // answered behind the order: a busy loop reads its sockets first
        let client = try await onThread {
          let client = try Socket.connect(pair.entrance)
          try client.write(Array("CONNECT \(agent) HTTP/1.1\r\n\r\nfirst flight".utf8))
          return client
        }
        let until = ContinuousClock.now + .seconds(10)
        while try await pair.b.flowCount() == 0 {
          try #require(ContinuousClock.now < until, "the flow did not reach b")
          try await Task.sleep(for: .milliseconds(2))
        }
        try await body(pair, client, listener, agent)
      }
    }

    func hasCaller(_ listener: Socket) -> Bool {
      var entry = pollfd(fd: listener.descriptor, events: Int16(POLLIN), revents: 0)
      return poll(&entry, 1, 0) > 0
    }

    @Test("waits until the machine is there, and then reaches it with what was parked")
    func arrives() async throws {
      try await withParked { pair, client, listener, agent in
        #expect(!hasCaller(listener))
        pair.b.handle(.arrived(agent: agent))
        try await onThread {
          let server = try listener.accept()
          #expect(try server.read(exactly: 12) == Array("first flight".utf8))
          #expect(try client.head().hasPrefix("HTTP/1.1 200 "))
          try server.write(Array("data".utf8))
          #expect(try client.read(exactly: 4) == Array("data".utf8))
        }
      }
    }

    @Test("is let go when nobody says any more that the machine is coming")
    func expires() async throws {
      try await withParked(hold: 300) { pair, client, listener, agent in
        let server = try await onThread { try listener.accept() }
        #expect(try await onThread { try server.read(exactly: 12) } == Array("first flight".utf8))
      }
    }

    @Test("that its client gives up is forgotten, and the machine is not troubled with it")
    func givenUp() async throws {
      try await withParked { pair, client, listener, agent in
        client.reset()
        try await pair.waitForNoFlows()
        pair.b.handle(.arrived(agent: agent))
        // A flow that is opened after the machine has come goes straight through; it would come second.
        let (second, _) = try await onThread { try pair.connect(to: agent.port, early: Array("second".utf8)) }
        let server = try await onThread { try listener.accept() }
        #expect(try await onThread { try server.read(exactly: 6) } == Array("second".utf8))
        #expect(!hasCaller(listener))
        _ = second
      }
    }

    @Test("leaves other flows alone")
    func others() async throws {
      try await withParked { pair, client, listener, agent in
        let (other, port) = try Socket.listen()
        _ = try await onThread { try pair.connected(to: port) }
        #expect(hasCaller(other) && !hasCaller(listener))
      }
    }
  }
}
