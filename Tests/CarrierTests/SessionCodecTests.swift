import Carriers
import ChunkStores
import Dedup
import Flows
import NIOCore
import Testing
import Vocabulary

@Suite("The codec of sealed sessions")
struct SessionCodecTests {
  static func body(_ frame: FlowFrame) -> ByteBuffer {
    var body = ByteBuffer()
    frame.writeBody(into: &body)
    return body
  }

  @Test("OPEN and OPENED say their codings in a tail, which is cut off, and are the same without it")
  func tails() throws {
    let opening = FlowFrame.open(FlowTarget(host: "vm", port: 80), window: 1 << 24)
    var open = Self.body(opening)
    #expect(FlowCodings.cut(fromOpen: &open) == nil)
    #expect(open == Self.body(opening))
    FlowCodings(outbound: .cached, inbound: .zstd).write(store: 0x0102_0304_0506_0708, behind: &open)
    let whole = open
    let tail = try #require(FlowCodings.cut(fromOpen: &open))
    #expect(tail.codings == FlowCodings(outbound: .cached, inbound: .zstd) && tail.store == 0x0102_0304_0506_0708)
    #expect(try FlowFrame(kind: .open, body: open) == opening)

    var opened = Self.body(.opened(window: 7))
    #expect(FlowCodings.cut(fromOpened: &opened) == nil)
    FlowCodings(outbound: .zstd, inbound: .zstd).write(behind: &opened)
    #expect(FlowCodings.cut(fromOpened: &opened)?.outbound == .zstd)
    #expect(try FlowFrame(kind: .opened, body: opened) == .opened(window: 7))

    // Cut short, or longer, it is no tail, and the frame's reader says what is wrong.
    for length in 0..<whole.readableBytes {
      var short = whole.getSlice(at: 0, length: length) ?? ByteBuffer()
      #expect(FlowCodings.cut(fromOpen: &short) == nil)
    }
    var long = whole
    long.writeInteger(UInt8(0))
    #expect(FlowCodings.cut(fromOpen: &long) == nil)
    #expect(throws: FlowViolation.malformed(.open)) { try FlowFrame(kind: .open, body: long) }
    // A coding that nobody knows.
    var strange = whole
    strange.setInteger(UInt8(0x7f), at: whole.readableBytes - 9)
    #expect(FlowCodings.cut(fromOpen: &strange) == nil)
  }

  @Test("an offer says what the end does, and what is no offer is none")
  func offers() {
    let store = MemoryChunkStore(capacity: 1 << 20, identity: 0xfedc_ba98_7654_3210)
    let offer = SessionCodec(store: store, pinned: 0).offer
    #expect(offer == CodecOffer(best: .cached, store: 0xfedc_ba98_7654_3210))
    #expect(CodecOffer(offer.octets) == offer)
    #expect(SessionCodec(store: nil, pinned: 0).offer == CodecOffer(best: .zstd, store: 0))
    #expect(SessionCodec(compresses: false, store: store, pinned: 0).offer == CodecOffer(best: .plain, store: 0))
    for length in [0, 1, 8, 10] { #expect(CodecOffer([UInt8](repeating: 1, count: length)) == nil) }
  }

  @Test("the same octets have one name at a session's two ends, and another for every other client, machine or store")
  func names() throws {
    let (one, other) = (MemoryChunkStore(capacity: 1 << 20, identity: 1), MemoryChunkStore(capacity: 1 << 20, identity: 2))
    let (client, agent) = (SessionCodecEnd(name: "client/laptop", store: 1), SessionCodecEnd(name: "agent/vm", store: 2))
    func name(_ store: MemoryChunkStore, _ client: SessionCodecEnd, _ agent: SessionCodecEnd) throws -> ChunkName {
      let cache = try #require(SessionCodec(store: store, pinned: 0).cache(client: client, agent: agent))
      return [UInt8](repeating: 7, count: 4_096).withUnsafeBytes { cache.namer($0) }
    }
    let ours = try name(one, client, agent)
    #expect(try name(other, client, agent) == ours)
    var others: Set<ChunkName> = [ours]
    for stranger in [SessionCodecEnd(name: "client/other", store: 1), SessionCodecEnd(name: "client/laptop", store: 3)] {
      #expect(others.insert(try name(other, stranger, agent)).inserted)
    }
    for stranger in [SessionCodecEnd(name: "agent/other", store: 2), SessionCodecEnd(name: "agent/vm", store: 3)] {
      #expect(others.insert(try name(one, client, stranger)).inserted)
    }
    #expect(SessionCodec(store: one, pinned: 0).cache(client: client, agent: SessionCodecEnd(name: "agent/vm", store: 0)) == nil)
  }
}
