import NIOCore
import NIOPosix
import Probing
import Testing
import Vocabulary

@Suite("A responder of probes")
struct ResponderTests {
  static func with(_ limits: ProbeLimits = ProbeLimits(), _ body: (ProbeResponder) async throws -> Void) async throws {
    let responder = try await ProbeResponder.bind(
      to: loopback, on: MultiThreadedEventLoopGroup.singleton.next(), logger: quiet, limits: limits)
    do { try await body(responder) } catch {
      await responder.close()
      throw error
    }
    await responder.close()
  }

  static func message(_ bytes: inout ByteBuffer) throws -> ProbeMessage { try #require(try ProbeMessage.read(from: &bytes)) }

  @Test("an echo comes back with its nonce")
  func echo() async throws {
    try await Self.with { responder in
      let stranger = try await Stranger.connect(to: responder.endpoint)
      for nonce in [1, 0xffff_ffff] as [UInt32] {
        try await stranger.say(.echo, nonce: nonce)
        var heard = try await stranger.hear(16)
        #expect(try Self.message(&heard) == ProbeMessage(kind: .echoAnswer, nonce: nonce))
        #expect(heard.readableBytes == 0)
      }
      await stranger.close()
    }
  }

  @Test("a train has as many octets as were asked for, and they do not compress", arguments: [1, 65_536, 262_144])
  func train(size: UInt32) async throws {
    try await Self.with { responder in
      let stranger = try await Stranger.connect(to: responder.endpoint)
      try await stranger.say(.train, size: size, nonce: 5)
      try await stranger.say(.echo, nonce: 6)
      var heard = try await stranger.hear(16 + Int(size) + 16)
      #expect(try Self.message(&heard) == ProbeMessage(kind: .trainAnswer, size: size, nonce: 5))
      let octets = heard.readBytes(length: Int(size)) ?? []
      #expect(try Self.message(&heard) == ProbeMessage(kind: .echoAnswer, nonce: 6))
      if size > 10_000 {
        var counts = [Int](repeating: 0, count: 256)
        for octet in octets { counts[Int(octet)] += 1 }
        #expect(counts.allSatisfy { abs($0 - octets.count / 256) < octets.count / 1_024 })
      }
      await stranger.close()
    }
  }

  @Test("what is no request ends the connection")
  func malformed() async throws {
    try await Self.with { responder in
      for text in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "LHPR\u{1}\u{9}\0\0\0\0\0\0\0\0\0\0", "LHPR\u{1}\u{2}\0\0\u{7f}\0\0\0\0\0\0\0"] {
        let stranger = try await Stranger.connect(to: responder.endpoint)
        try await stranger.say(ByteBuffer(string: text))
        try await stranger.waitForClose()
      }
      let stranger = try await Stranger.connect(to: responder.endpoint)
      try await stranger.say(.echoAnswer, nonce: 1)
      try await stranger.waitForClose()
    }
  }

  @Test("a connection that says nothing is closed")
  func idle() async throws {
    var limits = ProbeLimits()
    limits.idle = .milliseconds(50.0)
    try await Self.with(limits) { responder in
      let stranger = try await Stranger.connect(to: responder.endpoint)
      try await stranger.waitForClose()
    }
  }

  @Test("connections above the limit are turned away, and there is room again when one has gone")
  func tooMany() async throws {
    var limits = ProbeLimits()
    limits.maximumConnections = 1
    try await Self.with(limits) { responder in
      let first = try await Stranger.connect(to: responder.endpoint)
      try await first.say(.echo, nonce: 1)
      _ = try await first.hear(16)
      let second = try await Stranger.connect(to: responder.endpoint)
      try await second.waitForClose()
      await first.close()
      // The responder sees the end a little later than we do.
      let until = ContinuousClock.now + .seconds(20)
      while true {
        try #require(ContinuousClock.now < until)
        let third = try await Stranger.connect(to: responder.endpoint)
        try? await third.say(.echo, nonce: 3)
        if (try? await third.hear(16)) != nil { break }
      }
    }
  }

  @Test("trains above so many a second are answered with \"not now\"")
  func trainsPerSecond() async throws {
    var limits = ProbeLimits()
    limits.trainsPerSecond = 0
    try await Self.with(limits) { responder in
      let stranger = try await Stranger.connect(to: responder.endpoint)
      try await stranger.say(.train, size: 1_000, nonce: 5)
      var heard = try await stranger.hear(16)
      #expect(try Self.message(&heard) == ProbeMessage(kind: .trainAnswer, size: 0, nonce: 5))
      #expect(heard.readableBytes == 0)
      await stranger.close()
    }
  }

  @Test("a peer that asks for much and reads late gets all of it")
  func lateReader() async throws {
    var limits = ProbeLimits()
    limits.trainsPerSecond = .max
    try await Self.with(limits) { responder in
      let stranger = try await Stranger.connect(to: responder.endpoint, reads: false)
      let trains = 100
      var requests = ByteBuffer()
      for nonce in 0..<trains { ProbeMessage(kind: .train, size: 262_144, nonce: UInt32(nonce)).write(into: &requests) }
      try await stranger.say(requests)
      // Another one is served meanwhile.
      let other = try await Stranger.connect(to: responder.endpoint)
      try await other.say(.echo, nonce: 1)
      _ = try await other.hear(16)
      try await stranger.startReading()
      var heard = try await stranger.hear(trains * (16 + 262_144))
      for nonce in 0..<trains {
        #expect(try Self.message(&heard) == ProbeMessage(kind: .trainAnswer, size: 262_144, nonce: UInt32(nonce)))
        heard.moveReaderIndex(forwardBy: 262_144)
      }
      await stranger.close()
      await other.close()
    }
  }

  @Test("a busy port is an error at once")
  func busyPort() async throws {
    try await Self.with { responder in
      await #expect(throws: IOError.self) {
        _ = try await ProbeResponder.bind(to: responder.endpoint, on: MultiThreadedEventLoopGroup.singleton.next(), logger: quiet)
      }
    }
  }

  @Test("when it closes, its connections end")
  func close() async throws {
    let responder = try await ProbeResponder.bind(to: loopback, on: MultiThreadedEventLoopGroup.singleton.next(), logger: quiet)
    let stranger = try await Stranger.connect(to: responder.endpoint)
    try await stranger.say(.echo, nonce: 1)
    _ = try await stranger.hear(16)
    await responder.close()
    try await stranger.waitForClose()
  }
}
