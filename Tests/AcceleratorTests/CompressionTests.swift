import Accelerator
import Compression
import NIOCore
import NIOEmbedded
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("Compression in a tunnel")
  struct TunnelCompressionTests {
    private func transfer(_ bytes: [UInt8], compresses: Bool = true) async throws -> FlowStatistics {
      let (figures, isRead) = AsyncStream.makeStream(of: FlowStatistics.self)
      try await Pair.with(.init(compresses: compresses)) { pair in
        let (client, server) = try await pair.flow()
        #expect(try await exchange(client, bytes, server, []).atServer == bytes)
        try await pair.waitForNoFlows()
        let (sent, received) = (try await pair.a.statistics(), try await pair.b.statistics())
        #expect(sent.plainSent == bytes.count && received.plainReceived == bytes.count)
        #expect(sent.wireSent == received.wireReceived)
        isRead.yield(sent)
      }
      var iterator = figures.makeAsyncIterator()
      return try #require(await iterator.next())
    }

    @Test("shrinks what can be shrunk")
    func text() async throws {
      let figures = try await transfer(AcceleratorTests.text(4_000_000, seed: 1))
      #expect(figures.wireSent < figures.plainSent / 3)
    }

    @Test("gives up on what cannot, which then grows by less than a thousandth")
    func noise() async throws {
      let figures = try await transfer(pattern(8_000_000, seed: 1))
      #expect(figures.wireSent < figures.plainSent + figures.plainSent / 1_000)
    }

    @Test("comes back when a flow turns from noise to text")
    func turning() async throws {
      let figures = try await transfer(pattern(1_000_000, seed: 1) + AcceleratorTests.text(12_000_000, seed: 1))
      #expect(figures.wireSent < figures.plainSent * 2 / 3)
    }

    @Test("is off when it was switched off")
    func off() async throws {
      let figures = try await transfer(AcceleratorTests.text(1_000_000, seed: 1), compresses: false)
      #expect(figures.wireSent == figures.plainSent)
    }
  }
}

@Suite("The codec of one direction of a flow")
struct CodecTests {
  @Test("gives back what went in, batch by batch, text and noise mixed", arguments: UInt64(1)...20)
  func roundTrip(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    var encoder = FlowEncoder()
    var decoder = FlowDecoder()
    for _ in 0..<200 {
      let count = Int.random(in: 1...32_768, using: &random)
      let plain = ByteBuffer(bytes: Bool.random(using: &random) ? text(count, seed: random.next()) : pattern(count, seed: random.next()))
      switch encoder.encode(plain, reserving: 8) {
      case .literal(let bytes): #expect(bytes == plain)
      case .compressed(let bytes):
        #expect(bytes.readerIndex == 8)
        #expect(bytes.readableBytes <= 32_768 + 512)  // TunnelLimits.payloadOctets
        #expect(try decoder.decode(bytes, atMost: 32_768) == plain)
      }
    }
  }

  @Test("makes no context for a few short messages")
  func shortMessages() {
    var encoder = FlowEncoder()
    for _ in 0..<1_000 {
      guard case .literal = encoder.encode(ByteBuffer(repeating: 1, count: 32)) else {
        Issue.record("a short message was compressed")
        return
      }
    }
    let holdsContext = encoder.holdsContext
    #expect(!holdsContext)
  }

  @Test("frees its context when it gives up, at both ends")
  func givesUp() throws {
    var encoder = FlowEncoder()
    var decoder = FlowDecoder()
    for number in 0..<8 {
      if case .compressed(let bytes) = encoder.encode(ByteBuffer(bytes: pattern(32_768, seed: UInt64(number)))) {
        _ = try decoder.decode(bytes, atMost: 32_768)
      }
    }
    let contexts = (encoder.holdsContext, decoder.holdsContext)
    #expect(contexts == (false, false))
  }

  @Test("gives out no more than one frame may stand for")
  func bomb() {
    guard var compressor = ZstdCompressor() else { return }
    var packed = ByteBuffer()
    compressor.compress(ByteBuffer(repeating: 0, count: 64 << 20), .flush, into: &packed)
    #expect(packed.readableBytes < 32_768)
    var decoder = FlowDecoder()
    do throws(DecompressionError) {
      _ = try decoder.decode(packed, atMost: 32_768)
      Issue.record("64 MiB came out of one frame")
    } catch {
      #expect(error == .tooLarge(limit: 32_768))
    }
  }

  @Test("answers noise and damaged data with an error", arguments: UInt64(1)...40)
  func damaged(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var noise = FlowDecoder()
    _ = try? noise.decode(ByteBuffer(bytes: pattern(1_000, seed: seed)), atMost: 32_768)
    var encoder = FlowEncoder()
    guard case .compressed(let good) = encoder.encode(ByteBuffer(bytes: text(20_000, seed: seed))) else { return }
    var bytes = Array(good.readableBytesView)
    for _ in 0..<3 { bytes[Int.random(in: 0..<bytes.count, using: &random)] ^= UInt8.random(in: 1...255, using: &random) }
    var decoder = FlowDecoder()
    if let plain = try? decoder.decode(ByteBuffer(bytes: bytes), atMost: 32_768) { #expect(plain.readableBytes <= 32_768) }
  }
}

@Suite("The effort that a loop puts into compression")
struct EffortTests {
  /// Ten seconds in which each batch takes so much of the time between two.
  private func level(busy: Double, linkIsFull: Bool, from effort: CompressionEffort = CompressionEffort()) -> Int32 {
    for step in 0..<1_000 {
      effort.note(.milliseconds(10 * busy), linkIsFull: linkIsFull, at: Instant.zero + .milliseconds(Double(step) * 10))
    }
    return effort.level
  }

  @Test("grows while the link is full and the processor has time, and never where the link has room")
  func grows() {
    #expect(level(busy: 0.1, linkIsFull: true) == CompressionEffort.levels.last)
    #expect(level(busy: 0.1, linkIsFull: false) == CompressionEffort.levels[CompressionEffort.first])
  }

  @Test("shrinks where compressing takes most of the time, and stays where it is in between")
  func shrinks() {
    #expect(level(busy: 0.9, linkIsFull: true) == CompressionEffort.levels.first)
    #expect(level(busy: 0.4, linkIsFull: true) == CompressionEffort.levels[CompressionEffort.first])
  }

  @Test("changes the level of a flow that is under way, which the other end takes")
  func change() throws {
    var encoder = FlowEncoder()
    var decoder = FlowDecoder()
    var total = [Int32: Int]()
    for number in 0..<400 {
      let level: Int32 = number < 200 ? -5 : 6
      let plain = ByteBuffer(bytes: text(32_768, seed: UInt64(number % 50)))
      guard case .compressed(let bytes) = encoder.encode(plain, level: level) else { continue }
      if number % 200 > 150 { total[level, default: 0] += bytes.readableBytes }
      #expect(try decoder.decode(bytes, atMost: 32_768) == plain)
    }
    #expect(try #require(total[6]) < #require(total[-5]) * 3 / 4)
  }

  @Test("has contexts for so many flows at once; others go as they are until one is free")
  func contexts() {
    let loop = EmbeddedEventLoop()
    let effort = CompressionEffort(maximumContexts: 2)
    func codec() -> FlowCodec {
      FlowCodec(outbound: .zstd, inbound: .plain, cache: nil, window: 1 << 20, effort: effort, loop: loop)
    }
    func isCompressed(_ codec: FlowCodec) -> Bool {
      codec.send(ByteBuffer(bytes: text(10_000, seed: 1)), cut: 32_768, at: .zero)
      if case .data? = codec.nextFrame() { return true }
      return false
    }
    let (first, second, third) = (codec(), codec(), codec())
    #expect(isCompressed(first) && isCompressed(second) && !isCompressed(third))
    #expect(isCompressed(first))
    first.endSending(cut: 32_768)
    #expect(isCompressed(third))
    second.rest(cut: 32_768)
    second.shrink()
    #expect(isCompressed(codec()), "one that is gone gives its context back")
    #expect(isCompressed(codec()))
  }

  @Test("is given up by a flow that rests, at both ends, and taken up again")
  func rests() throws {
    var encoder = FlowEncoder()
    var decoder = FlowDecoder()
    for _ in 0..<3 {
      let plain = ByteBuffer(bytes: text(20_000, seed: 1))
      guard case .compressed(let bytes) = encoder.encode(plain) else { Issue.record("text was not compressed"); return }
      #expect(try decoder.decode(bytes, atMost: 32_768) == plain)
      guard let end = encoder.rest() else { Issue.record("there was no context to give up"); return }
      #expect(try decoder.decode(end, atMost: 32_768).readableBytes == 0)
      let contexts = (encoder.holdsContext, decoder.holdsContext)
      #expect(contexts == (false, false))
    }
    let isNothing = encoder.rest() == nil
    #expect(isNothing)
  }
}
