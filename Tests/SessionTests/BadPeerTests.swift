import TestSupport
import Testing
import Vocabulary

@Suite("Applications that do not do their part", .serialized, .timeLimit(.minutes(2)))
struct BadApplicationTests {
  @Test("a flow that nobody reads holds up no other flow of its session")
  func slowReader() async throws {
    try await Road.with { road in
      let (flood, floodPort) = try Socket.listen()
      let (echo, echoPort) = try Socket.listen()
      Task.detached {
        try? await onThread {
          let peer = try flood.accept()
          let block = [UInt8](repeating: 9, count: 1 << 20)
          while (try? peer.write(block)) != nil {}
        }
      }
      let sleeper = try Socket.connect(road.socks)
      #expect(try sleeper.socks(to: "vm", floodPort) == 0)
      // The first octets are there, so the flood is on its way; nothing more is ever read.
      _ = try await onThread { try sleeper.read(exactly: 1) }
      for number in 0..<10 {
        let question = pattern(300_000, seed: UInt64(number))
        let application = try Socket.connect(road.socks)
        #expect(try application.socks(to: "vm", echoPort) == 0)
        async let serving: Void = onThread {
          let peer = try echo.accept()
          try peer.write(try peer.readToEnd())
          peer.endOutput()
        }
        async let writing: Void = onThread {
          try application.write(question)
          application.endOutput()
        }
        #expect(try await onThread { try application.readToEnd() } == question)
        try await writing
        try await serving
      }
      sleeper.reset()
    }
  }

  @Test("hundreds of connections to the agent that say nothing, or one octet, keep no session from its work")
  func silentConnections() async throws {
    try await Road.with { road in
      var silent: [Socket] = []
      for number in 0..<300 {
        let socket = try Socket.connect(road.agentPort)
        if number % 2 == 0 { try socket.write([0xff]) }
        silent.append(socket)
      }
      let (service, port) = try Socket.listen()
      let application = try Socket.connect(road.socks)
      #expect(try application.socks(to: "vm", port) == 0)
      let peer = try await onThread { try service.accept() }
      try peer.write([1, 2, 3])
      #expect(try await onThread { try application.read(exactly: 3) } == [1, 2, 3])
      for socket in silent { socket.reset() }
    }
  }
}
