import Dedup
import Flows
import NIOCore
import Testing
import Tunnel
import Vocabulary

@Suite("Tunnel frames")
struct FrameTests {
  static let hello = TunnelHello(node: "a", peer: "b", maximumFlows: 1_024, nonce: [UInt8](0..<32))

  /// One of each kind, with the longest and the shortest of what varies.
  static let samples: [TunnelFrame] = [
    .hello(hello),
    .proof([UInt8](32..<64)),
    .flow(
      FlowID(1), .open(FlowTarget(host: "10.2.0.5", port: 21), window: 16 << 20), terms: FlowTerms(outbound: .zstd, inbound: .plain)),
    .flow(
      FlowID(.max), .open(FlowTarget(host: String(repeating: "x", count: 255), port: 65_535), window: .max),
      terms: FlowTerms(outbound: .plain, inbound: .zstd)),
    .flow(FlowID(1), .opened(window: 0), terms: .plain),
    .flow(FlowID(2), .refused(.hostUnreachable), terms: .plain),
    .coded(FlowID(3), .data(ByteBuffer(bytes: [1, 2, 3]))),
    .coded(FlowID(3), .data(ByteBuffer(repeating: 9, count: TunnelLimits.payloadOctets))),
    .coded(FlowID(3), .data(ByteBuffer())),
    .flow(FlowID(3), .credit(8 << 20), terms: .plain),
    .flow(FlowID(3), .end, terms: .plain),
    .flow(FlowID(3), .reset, terms: .plain),
    .flow(
      FlowID(1), .open(FlowTarget(host: "10.2.0.5", port: 21), window: 1),
      terms: FlowTerms(
        outbound: .cached, inbound: .cached, priority: .bulk, tenant: String(repeating: "t", count: TunnelLimits.tenantOctets),
        source: Endpoint("[2001:db8::7]:65535")!)),
    .flow(
      FlowID(1), .open(FlowTarget(host: String(repeating: "h", count: 255), port: 21), window: 1),
      terms: FlowTerms(outbound: .plain, inbound: .cached, tenant: "red", source: Endpoint("10.0.0.1:1")!)),
    .coded(
      FlowID(5),
      .reference(
        (0..<CodedFrame.referencesAtOnce).map { ChunkReference(name: ChunkName(high: .max, middle: UInt64($0), low: 7), octets: 32 << 10) })
    ),
    .coded(FlowID(5), .missing((0..<UInt32(CodedFrame.missingAtOnce)).map { $0 })),
    .coded(FlowID(5), .chunk(.max, ByteBuffer(repeating: 5, count: ChunkLimits.maximum))),
    .coded(FlowID(5), .resolved(7)), .coded(FlowID(5), .lane(65)),
    .coded(FlowID(4), .literal(ByteBuffer(repeating: 5, count: TunnelLimits.dataOctets))),
    .ping(.max),
    .pong(7),
    .pad(0),
    .pad(TunnelLimits.payloadOctets),
    .warm(WarmRequest(rate: .megabitsPerSecond(96), roundTrip: .milliseconds(Int64(300)), hold: .seconds(Int64(60)))), .leaving,
    .have(PeerBelief(peer: "access", store: .max, names: [ChunkName(high: 1, middle: .max, low: 3)])),
    .have(
      PeerBelief(
        peer: NodeID(String(repeating: "n", count: TunnelLimits.nameOctets)), store: 1,
        names: (0..<TunnelLimits.namesAtOnce).map { ChunkName(high: UInt64($0), middle: 7, low: .max) })),
    .goodbye(TunnelGoodbye(.wrongKey, "a and b have different keys")),
    .goodbye(TunnelGoodbye(.other, "")),
  ]

  static func encoded(_ frames: [TunnelFrame]) -> ByteBuffer {
    var buffer = ByteBuffer()
    for frame in frames { frame.write(into: &buffer) }
    return buffer
  }

  @Test("come out as they went in, whatever the pieces they arrive in", arguments: [1, 2, 7, 8, 9, 1_000, 32_768, 1 << 20])
  func roundTrip(piece: Int) throws {
    var wire = FrameTests.encoded(FrameTests.samples)
    var decoder = TunnelFrameDecoder()
    var got: [TunnelFrame] = []
    while let part = wire.readSlice(length: min(piece, wire.readableBytes)), part.readableBytes > 0 {
      decoder.append(part)
      while let frame = try decoder.next() { got.append(frame) }
      #expect(decoder.bufferedOctets <= TunnelLimits.headerOctets + TunnelLimits.payloadOctets)
    }
    #expect(got == FrameTests.samples)
    #expect(decoder.bufferedOctets == 0)
  }

  @Test("that are cut short anywhere are waited for, not guessed")
  func cutShort() throws {
    for frame in FrameTests.samples {
      let whole = FrameTests.encoded([frame])
      let step = max(whole.readableBytes / 300, 1)
      for count in stride(from: 0, to: whole.readableBytes, by: step) {
        var decoder = TunnelFrameDecoder()
        decoder.append(FrameTests.encoded([.hello(FrameTests.hello)]))
        _ = try decoder.next()
        decoder.append(whole.getSlice(at: 0, length: count) ?? ByteBuffer())
        #expect(try decoder.next() == nil)
      }
    }
  }

  @Test("of a kind that is not there yet, or too long, end the stream")
  func refused() throws {
    func header(_ kind: UInt8, _ length: UInt32, body: Int = 0) -> ByteBuffer {
      var buffer = ByteBuffer()
      buffer.writeInteger(UInt32(kind) << 24 | length)
      buffer.writeInteger(UInt32(1))
      buffer.writeRepeatingByte(0, count: body)
      return buffer
    }
    func failure(_ bytes: ByteBuffer) -> TunnelViolation? {
      var decoder = TunnelFrameDecoder()
      do throws(TunnelViolation) {
        decoder.append(FrameTests.encoded([.hello(FrameTests.hello)]))
        _ = try decoder.next()
        decoder.append(bytes)
        _ = try decoder.next()
        return nil
      } catch {
        return error
      }
    }
    #expect(failure(header(99, 0)) == .unknownKind(99))
    #expect(failure(header(9, 0, body: 0)) == .malformed(.reference))
    #expect(failure(header(9, 21, body: 21)) == .malformed(.reference))
    #expect(failure(header(9, 22, body: 22)) == .malformed(.reference), "a chunk of no octets")
    #expect(failure(header(10, 3, body: 3)) == .malformed(.missing))
    #expect(failure(header(11, 4, body: 4)) == .malformed(.chunk))
    #expect(failure(header(12, 5, body: 5)) == .malformed(.resolved))
    #expect(failure(header(13, 1, body: 1)) == .malformed(.lane))
    #expect(failure(header(25, 9, body: 9)) == .malformed(.have))
    #expect(failure(header(25, 30, body: 30)) == .malformed(.have), "the store 0, which is none")
    #expect(failure(header(25, UInt32(TunnelLimits.haveOctets + 1))) == .tooLong(.have, octets: TunnelLimits.haveOctets + 1))
    // The length alone is enough: nothing is kept for a frame that will not be taken.
    #expect(failure(header(4, 0xff_ffff)) == .tooLong(.data, octets: 0xff_ffff))
    #expect(failure(header(4, UInt32(TunnelLimits.payloadOctets + 1))) == .tooLong(.data, octets: TunnelLimits.payloadOctets + 1))
    #expect(failure(header(20, UInt32(TunnelLimits.controlOctets + 1))) == .tooLong(.ping, octets: TunnelLimits.controlOctets + 1))
    #expect(failure(header(20, 0)) == .malformed(.ping))
    #expect(failure(header(17, 0)) == .malformed(.proof))
    #expect(failure(header(1, 0)) == .malformed(.open))
    #expect(failure(header(5, 0)) == .flow(.malformed(.credit)))
  }

  @Test(
    "are believed only behind a HELLO: anything else is no tunnel",
    arguments: ["GET / HTTP/1.1\r\n\r\n", "SSH-2.0-OpenSSH_9.2\r\n", "\u{16}\u{3}\u{1}", "\u{4}"])
  func strangers(text: String) {
    var decoder = TunnelFrameDecoder()
    decoder.append(ByteBuffer(string: text))
    #expect(throws: TunnelViolation.notATunnel) { try decoder.next() }
  }

  @Test("cannot forge a line of the log")
  func printable() throws {
    var decoder = TunnelFrameDecoder()
    decoder.append(FrameTests.encoded([.goodbye(TunnelGoodbye(.violation, "one\ntwo\u{1b}[2J"))]))
    #expect(try decoder.next() == .goodbye(TunnelGoodbye(.violation, "onetwo[2J")))
    let named = TunnelHello(node: "a\nb", peer: "b", maximumFlows: 1, nonce: [UInt8](repeating: 0, count: 32))
    var other = TunnelFrameDecoder()
    other.append(FrameTests.encoded([.hello(named)]))
    #expect(throws: TunnelViolation.malformed(.hello)) { try other.next() }
  }

  @Test("made of noise never trap, and never make the decoder keep more than one frame", arguments: UInt64(1)...40)
  func noise(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    for _ in 0..<200 {
      var decoder = TunnelFrameDecoder()
      var isOver = false
      // Half of the streams begin well, and half of those are good frames with a few octets changed.
      var wire = ByteBuffer()
      if Bool.random(using: &random) { wire.writeImmutableBuffer(FrameTests.encoded([.hello(FrameTests.hello)])) }
      if Bool.random(using: &random),
        let frame = FrameTests.samples.filter({ FrameTests.encoded([$0]).readableBytes < 1_000 }).randomElement(using: &random)
      {
        var bytes = Array(FrameTests.encoded([frame]).readableBytesView)
        for _ in 0..<Int.random(in: 1...3, using: &random) {
          bytes[Int.random(in: 0..<bytes.count, using: &random)] = .random(in: 0...255, using: &random)
        }
        wire.writeBytes(bytes)
      }
      wire.writeBytes((0..<Int.random(in: 0...200, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) })
      while !isOver, let part = wire.readSlice(length: min(Int.random(in: 1...64, using: &random), wire.readableBytes)),
        part.readableBytes > 0
      {
        decoder.append(part)
        do {
          while try decoder.next() != nil {}
        } catch {
          isOver = true
        }
        #expect(isOver || decoder.bufferedOctets <= TunnelLimits.headerOctets + TunnelLimits.payloadOctets, "seed \(seed)")
      }
    }
  }
}
