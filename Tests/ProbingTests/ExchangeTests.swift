import NIOCore
import Probing
import Testing
import Vocabulary

/// An exchange, the clock, and the far side by hand.
struct Bench {
  var exchange: ProbeExchange
  var now = Instant.zero
  var sent: [ProbeMessage] = []
  var found: [(roundTrip: TimeSpan, rate: BitRate?)] = []
  var failure: String?

  init(interval: TimeSpan = .seconds(1.0), handshake: TimeSpan = .milliseconds(20.0), limits: ProbeLimits = ProbeLimits()) {
    exchange = ProbeExchange(interval: interval, handshake: handshake, firstNonce: 41, limits: limits, at: now)
    run()
  }

  /// Lets everything happen that is due by now.
  mutating func run() {
    exchange.handleDeadline(at: now)
    drain()
  }

  private mutating func drain() {
    while let effect = exchange.nextEffect() {
      switch effect {
      case .send(var bytes):
        if let message = try? ProbeMessage.read(from: &bytes), bytes.readableBytes == 0 {
          sent.append(message)
        } else {
          Issue.record("bad request")
        }
      case .found(let roundTrip, let rate): found.append((roundTrip, rate))
      case .failed(let reason): failure = reason
      }
    }
  }

  mutating func advance(_ span: TimeSpan) { now = now + span }

  /// Goes to the deadline, and through it.
  mutating func wait() throws {
    now = max(try #require(exchange.deadline), now)
    run()
  }

  mutating func hear(_ bytes: ByteBuffer) {
    exchange.receive(bytes, at: now)
    drain()
  }

  mutating func hear(_ kind: ProbeMessage.Kind, size: UInt32 = 0, nonce: UInt32) {
    var bytes = ByteBuffer()
    ProbeMessage(kind: kind, size: size, nonce: nonce).write(into: &bytes)
    hear(bytes)
  }

  /// What was asked since the last call.
  mutating func asked() -> [ProbeMessage] {
    defer { sent = [] }
    return sent
  }

  /// Answers the one ECHO that was asked, after so long.
  mutating func answerEcho(after span: TimeSpan) throws {
    let asked = self.asked()
    try #require(asked.count == 1 && asked[0].kind == .echo)
    advance(span)
    hear(.echoAnswer, nonce: asked[0].nonce)
  }
}

@Suite("What a prober says and hears on one connection")
struct ExchangeTests {
  @Test("the first echo goes out at once; its answer brings two round trips, the handshake's and its own")
  func first() throws {
    var bench = Bench()
    #expect(bench.found.isEmpty)  // until something answers, anything may be listening there
    try bench.answerEcho(after: .milliseconds(30.0))
    #expect(bench.found.map(\.roundTrip) == [.milliseconds(20.0), .milliseconds(30.0)])
  }

  @Test("a handshake that lost its SYN is no round trip")
  func lostSYN() throws {
    var bench = Bench(handshake: .milliseconds(1_020.0))
    try bench.answerEcho(after: .milliseconds(20.0))
    #expect(bench.found.map(\.roundTrip) == [.milliseconds(20.0)])
  }

  @Test("a train over a path of 100 Mbit/s and 300 ms gives its rate, with a round trip that it did not disturb")
  func train() throws {
    var bench = Bench(handshake: .milliseconds(300.0))
    try bench.answerEcho(after: .milliseconds(300.0))
    let request = try #require(bench.asked().first)
    #expect(request.kind == .train && request.size == 65_536)
    // A new connection sends 10 segments, and two for each that was acknowledged: 10, 20, 15; 1,500 octets on the wire take 120 us.
    bench.advance(.milliseconds(300.0))
    bench.hear(.trainAnswer, size: request.size, nonce: request.nonce)
    var left = Int(request.size)
    for burst in [10, 20, 16] {
      for _ in 0..<burst {
        let octets = min(left, 1_448)
        bench.advance(.microseconds(120))
        bench.hear(ByteBuffer(repeating: 7, count: octets))
        left -= octets
      }
      bench.advance(.milliseconds(290.0))
      #expect(bench.asked().map(\.kind) == (left == 0 ? [.echo] : []))
      bench.sent = []
    }
    #expect(left == 0)
    #expect(bench.found.count == 2)
    bench.hear(.echoAnswer, nonce: request.nonce &+ 1)
    let rate = try #require(bench.found.last?.rate)
    #expect((95...101).contains(rate.megabitsPerSecond), "\(rate.megabitsPerSecond)")
    // Told once.
    try bench.wait()
    try bench.answerEcho(after: .milliseconds(300.0))
    #expect(bench.found.last?.rate == nil)
  }

  @Test("while a train is under way no echo is sent")
  func noEchoBehindTrain() throws {
    var bench = Bench(interval: .milliseconds(100.0))
    try bench.answerEcho(after: .milliseconds(20.0))
    let request = try #require(bench.asked().first)
    for _ in 0..<10 {
      bench.advance(.milliseconds(90.0))
      bench.run()
    }
    #expect(bench.asked().isEmpty && bench.failure == nil)
    bench.hear(.trainAnswer, size: request.size, nonce: request.nonce)
    bench.advance(.milliseconds(200.0))
    bench.hear(ByteBuffer(repeating: 0, count: Int(request.size)))
    try bench.wait()
    #expect(bench.asked().map(\.kind) == [.echo])
  }

  @Test("trains get their turn where a round trip is longer than the interval")
  func trainsGetTheirTurn() throws {
    var bench = Bench(interval: .milliseconds(100.0), handshake: .milliseconds(350.0))
    var underway: [(ProbeMessage, due: Instant)] = []
    var trains = 0
    while bench.now < Instant(nanoseconds: 25_000_000_000) {
      for message in bench.asked() { underway.append((message, bench.now + .milliseconds(350.0))) }
      let deadline = try #require(bench.exchange.deadline)
      bench.now = max(bench.now, min(deadline, underway.first?.due ?? deadline))
      while let next = underway.first, next.due <= bench.now {
        underway.removeFirst()
        if next.0.kind == .train { trains += 1 }
        bench.hear(next.0.kind == .train ? .trainAnswer : .echoAnswer, nonce: next.0.nonce)  // a train of size 0: "not now"
      }
      bench.run()
      try #require(bench.failure == nil)
    }
    #expect(trains == 3)
    // One echo each 100 ms but for the pauses around three trains, 0.8 s each.
    #expect(bench.found.count > 200)
  }

  @Test("later trains fit the rate that was found", arguments: [(1.0, 49_152), (8.0, 100_000), (1_000.0, 131_072)])
  func trainSize(megabits: Double, size: UInt32) throws {
    var bench = Bench()
    try bench.answerEcho(after: .milliseconds(20.0))
    let request = try #require(bench.asked().first)
    bench.hear(.trainAnswer, size: request.size, nonce: request.nonce)
    bench.hear(ByteBuffer(repeating: 0, count: 1_448))
    let rest = Int(request.size) - 1_448
    // In pieces, so that no gap looks like one between two bursts.
    let pieces = 400
    for piece in 0..<pieces {
      bench.advance(.seconds(Double(rest) * 8 / (megabits * 1e6) / Double(pieces)))
      bench.hear(ByteBuffer(repeating: 0, count: rest * (piece + 1) / pieces - rest * piece / pieces))
    }
    try bench.answerEcho(after: .milliseconds(20.0))
    while bench.sent.first?.kind != .train {
      try bench.wait()
      if bench.sent.first?.kind == .echo { try bench.answerEcho(after: .milliseconds(20.0)) }
      try #require(bench.failure == nil)
    }
    let second = try #require(bench.asked().first)
    #expect(abs(Int(second.size) - Int(size)) < Int(size) / 100 + 1)
    #expect(bench.now >= Instant(nanoseconds: 10_000_000_000))
  }

  @Test("an echo without an answer is lost after a second, or four round trips", arguments: [(20.0, 1_000.0), (600.0, 2_400.0)])
  func loss(roundTrip: Double, patience: Double) throws {
    var bench = Bench(interval: .seconds(100.0), handshake: .milliseconds(roundTrip))
    #expect(bench.exchange.deadline == Instant.zero + .milliseconds(patience))
    bench.advance(.milliseconds(patience - 1))
    bench.run()
    #expect(bench.failure == nil)
    try bench.wait()
    #expect(bench.failure?.contains("no answer to a probe") == true)
    #expect(bench.exchange.deadline == nil)
    bench.hear(.echoAnswer, nonce: 42)
    #expect(bench.found.isEmpty)
  }

  @Test("a train that stops is given up")
  func stoppedTrain() throws {
    var bench = Bench()
    try bench.answerEcho(after: .milliseconds(20.0))
    let request = try #require(bench.asked().first)
    bench.hear(.trainAnswer, size: request.size, nonce: request.nonce)
    bench.advance(.milliseconds(900.0))
    bench.hear(ByteBuffer(repeating: 0, count: 1_000))
    bench.advance(.milliseconds(900.0))
    bench.run()
    #expect(bench.failure == nil)
    bench.advance(.milliseconds(200.0))
    bench.run()
    #expect(bench.failure?.contains("train") == true)
  }

  @Test("answers in single octets are read the same")
  func byteByByte() throws {
    var bench = Bench()
    let echo = try #require(bench.asked().first)
    var answers = ByteBuffer()
    ProbeMessage(kind: .echoAnswer, nonce: echo.nonce).write(into: &answers)
    ProbeMessage(kind: .trainAnswer, size: 1_000, nonce: echo.nonce &+ 1).write(into: &answers)
    answers.writeRepeatingByte(1, count: 1_000)
    for octet in answers.readableBytesView { bench.hear(ByteBuffer(bytes: [octet])) }
    #expect(bench.failure == nil && bench.found.count == 2)
    try bench.wait()
    #expect(bench.asked().map(\.kind) == [.train, .echo])
  }

  @Test("what was not asked, and what is no answer, ends the connection")
  func violations() throws {
    let inputs: [(String, (inout Bench) -> Void)] = [
      ("another nonce", { $0.hear(.echoAnswer, nonce: 7) }), ("a train", { $0.hear(.trainAnswer, size: 100, nonce: 42) }),
      ("a request", { $0.hear(.echo, nonce: 42) }), ("HTTP", { $0.hear(ByteBuffer(string: "HTTP/1.1 400 Bad Request\r\n")) }),
    ]
    for (name, input) in inputs {
      var bench = Bench()
      input(&bench)
      #expect(bench.failure != nil, "\(name)")
    }
  }

  @Test("random octets never do more than end the connection", arguments: 1...50)
  func garbage(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var bench = Bench()
    for _ in 0..<20 {
      var bytes = ByteBuffer()
      if Bool.random(using: &random) {
        ProbeMessage(kind: .echoAnswer, nonce: UInt32.random(in: 41...43, using: &random)).write(into: &bytes)
      }
      for _ in 0..<Int.random(in: 0...40, using: &random) { bytes.writeInteger(UInt8.random(in: 0...255, using: &random)) }
      bench.hear(bytes)
      bench.advance(.milliseconds(1.0))
      bench.run()
    }
    #expect(bench.failure != nil)
  }
}

@Suite("Probe messages")
struct MessageTests {
  @Test("every message is read back, and cut short it waits for the rest")
  func roundTrip() throws {
    let messages = [
      ProbeMessage(kind: .echo, nonce: 1), ProbeMessage(kind: .train, size: 262_144, nonce: .max),
      ProbeMessage(kind: .echoAnswer, nonce: 0),
      ProbeMessage(kind: .trainAnswer, size: 0, nonce: 9),
    ]
    for message in messages {
      var whole = ByteBuffer()
      message.write(into: &whole)
      #expect(whole.readableBytes == 16)
      for count in 0..<16 {
        var part = ByteBuffer(bytes: whole.readableBytesView.prefix(count))
        #expect(try ProbeMessage.read(from: &part) == nil)
        #expect(part.readableBytes == count)
      }
      #expect(try ProbeMessage.read(from: &whole) == message)
    }
  }

  @Test("the layout is the documented one")
  func layout() {
    var bytes = ByteBuffer()
    ProbeMessage(kind: .train, size: 0x10000, nonce: 0xa1b2c3d4).write(into: &bytes)
    #expect(Array(bytes.readableBytesView) == [0x4c, 0x48, 0x50, 0x52, 1, 2, 0, 0, 0, 1, 0, 0, 0xa1, 0xb2, 0xc3, 0xd4])
  }

  @Test("each mistake is named")
  func mistakes() {
    let good: [UInt8] = [0x4c, 0x48, 0x50, 0x52, 1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    let mistakes: [(Int, UInt8, ProbeViolation)] = [
      (0, 0x47, .notOurs), (4, 2, .version(2)), (5, 9, .unknownKind(9)), (7, 1, .unknownKind(2)), (8, 1, .badSize(0x101_0000)),
      (9, 0, .badSize(0)),
    ]
    for (place, octet, violation) in mistakes {
      var octets = good
      octets[place] = octet
      #expect(throws: violation) {
        var bytes = ByteBuffer(bytes: octets)
        _ = try ProbeMessage.read(from: &bytes)
      }
    }
  }
}
