import DequeModule
import NIOCore

/// One lane of a receiver: what has come and is not passed on yet; and the chunks that are in it, found as the sender finds them.
struct LaneDecoder: Sendable {
  enum Item: Sendable {
    case plain(ByteBuffer)
    /// By its ordinal.
    case reference(UInt32)
    /// What is left of a reference's octets.
    case rebuilt(ByteBuffer)
  }

  var items: Deque<Item> = []
  /// Octets of this lane that lane 0 has announced, and that have come. Lane 0 itself is not announced.
  private(set) var announced = 0
  private(set) var arrived = 0
  /// Where chunks end because what is on the lane ends there.
  private var cuts: Deque<Int> = []
  private var chunker = Chunker()
  /// The octets of the chunk that has not ended; at most `ChunkLimits.maximum`.
  private var open = ByteBuffer()
  /// They were given up: this chunk is not named.
  private var isNameless = false

  var isAtBoundary: Bool { chunker.length == 0 }
  var missing: Int { announced - arrived }

  mutating func announce(_ octets: Int) { announced += octets }

  /// What has been announced so far is complete.
  mutating func cut(namer: ChunkNamer, learned: (ChunkName, ByteBuffer) -> Void) {
    if arrived == announced {
      endChunk(namer: namer, learned: learned)
    } else if cuts.last != announced {
      cuts.append(announced)
    }
  }

  mutating func reference(_ ordinal: UInt32, octets: Int) {
    items.append(.reference(ordinal))
    arrived += octets
    while let cut = cuts.first, cut <= arrived { cuts.removeFirst() }
  }

  /// Gives up the copy of a chunk that has not ended, which then is not learned, and room that is not in use.
  mutating func trim() {
    if items.isEmpty { items = [] }
    guard chunker.length > 0 else { return }
    open = ByteBuffer()
    isNameless = true
  }

  /// Finds the chunks in octets that came plain.
  mutating func learn(_ octets: ByteBuffer, namer: ChunkNamer, learned: (ChunkName, ByteBuffer) -> Void) {
    var octets = octets
    while octets.readableBytes > 0 {
      guard let cut = cuts.first, cut - arrived <= octets.readableBytes else {
        return cutIntoChunks(octets, namer: namer, learned: learned)
      }
      cuts.removeFirst()
      cutIntoChunks(octets.readSlice(length: cut - arrived) ?? ByteBuffer(), namer: namer, learned: learned)
      endChunk(namer: namer, learned: learned)
    }
  }

  /// The chunk ends here, whatever the octets say.
  mutating func endChunk(namer: ChunkNamer, learned: (ChunkName, ByteBuffer) -> Void) {
    if open.readableBytes >= ChunkLimits.shortest { learned(open.withUnsafeReadableBytes { namer($0) }, open) }
    open = ByteBuffer()
    isNameless = false
    chunker.restart()
  }

  private mutating func cutIntoChunks(_ octets: ByteBuffer, namer: ChunkNamer, learned: (ChunkName, ByteBuffer) -> Void) {
    arrived += octets.readableBytes
    var start = octets.readerIndex
    while let length = chunker.next(in: octets, from: start) {
      let part = octets.piece(start, length)
      start += length
      if isNameless {
        isNameless = false
        continue
      }
      let isWhole = open.readableBytes == 0
      if !isWhole { open.writeImmutableBuffer(part) }
      let chunk = isWhole ? part : open
      learned(chunk.withUnsafeReadableBytes { namer($0) }, chunk)
      open = ByteBuffer()
    }
    if !isNameless { open.writeImmutableBuffer(octets.piece(start, octets.writerIndex - start)) }
  }
}
