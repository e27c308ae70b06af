import NIOCore

/// One lane of a sender: cuts it into chunks, and sends each as a reference or plain.
struct LaneEncoder: Sendable {
  /// A chunk that has not ended is held back only while that may pay: at a lane's beginning, and until so many chunks in a row were not known to the peer.
  /// Fresh data so goes out at once. The first chunk of a known file behind new ones may go out plain; from there on chunks are held again.
  private static let patience = 4

  private let lane: UInt16
  private var chunker = Chunker()
  /// The octets of the chunk that has not ended; at most `ChunkLimits.maximum`.
  private var open = ByteBuffer()
  /// They were given up: this chunk is not named.
  private var isNameless = false
  /// How many of them have gone out, plain. Such a chunk can be learned and no longer become a reference.
  private var sent = 0
  private var patience = LaneEncoder.patience
  /// Where the flow stood when octets began to be held.
  private(set) var heldSince = 0

  init(lane: UInt16) { self.lane = lane }

  var held: Int { open.readableBytes - sent }

  /// The lane's first octets, some of which have gone out already; fewer than a chunk's minimum.
  mutating func begin(with octets: ByteBuffer, sent: Int) {
    _ = octets.withUnsafeReadableBytes { chunker.next(in: $0) }
    open = octets
    self.sent = sent
  }

  /// Takes octets of the lane; `position` is the flow's.
  mutating func append(
    _ octets: ByteBuffer, at position: Int, holds: Bool, namer: ChunkNamer, isShared: (ChunkName) -> Bool,
    learned: (ChunkName, ByteBuffer) -> Void, output: inout EncoderOutput
  ) {
    let firstPin = output.pins.count
    // The chunk, or its part in these octets, begins at `start`; what lies between `plain` and there goes out plain.
    var start = octets.readerIndex
    var plain = start
    while let length = chunker.next(in: octets, from: start) {
      let part = octets.piece(start, length)
      if isNameless {
        isNameless = false
        start += length
        continue
      }
      let isWhole = open.readableBytes == 0
      let unsent = heldOctets
      if !isWhole { open.writeImmutableBuffer(part) }
      let chunk = isWhole ? part : open
      let name = chunk.withUnsafeReadableBytes { namer($0) }
      if judge(isShared(name)), holds, sent == 0 {
        output.plain(octets.piece(plain, start - plain), on: lane)
        output.reference(name, chunk, on: lane)
        plain = start + length
      } else {
        output.plain(unsent, on: lane)
        learned(name, chunk)
      }
      close()
      start += length
    }
    let tail = octets.piece(start, octets.writerIndex - start)
    if isNameless {
      output.plain(octets.piece(plain, octets.writerIndex - plain), on: lane)
    } else if holds, patience > 0, sent == 0 {
      output.plain(octets.piece(plain, start - plain), on: lane)
      if held == 0 { heldSince = position }
      open.writeImmutableBuffer(tail)
    } else {
      output.plain(heldOctets, on: lane)
      output.plain(octets.piece(plain, octets.writerIndex - plain), on: lane)
      open.writeImmutableBuffer(tail)
      sent = open.readableBytes
    }
    output.pins.leaveBuffer(from: firstPin, capacity: octets.storageCapacity)
  }

  /// Sends out what is held, and its chunk goes on; but if the peer has just these octets as a chunk, they are one, and it ends.
  mutating func flush(namer: ChunkNamer, isShared: (ChunkName) -> Bool, output: inout EncoderOutput) {
    if sent == 0, held >= ChunkLimits.minimum {
      let name = open.withUnsafeReadableBytes { namer($0) }
      if isShared(name) {
        output.reference(name, open, on: lane)
        patience = LaneEncoder.patience
        close()
        return chunker.restart()
      }
    }
    output.plain(heldOctets, on: lane)
    sent = open.readableBytes
  }

  /// Gives up the copy of a chunk that has not ended, unless it is held: the chunk is not learned.
  mutating func trim() {
    guard held == 0, chunker.length > 0 else { return }
    close()
    isNameless = true
  }

  /// Octets of the chunk that has not ended.
  var openOctets: Int { chunker.length }

  /// The lane's octets end here, or something else begins: so does the chunk. True if it was sent as a reference, which says so by itself.
  @discardableResult
  mutating func cut(
    holds: Bool, namer: ChunkNamer, isShared: (ChunkName) -> Bool, learned: (ChunkName, ByteBuffer) -> Void, output: inout EncoderOutput
  ) -> Bool {
    var isReference = false
    if open.readableBytes >= ChunkLimits.shortest {
      let name = open.withUnsafeReadableBytes { namer($0) }
      if judge(isShared(name)), holds, sent == 0 {
        output.reference(name, open, on: lane)
        isReference = true
      } else {
        output.plain(heldOctets, on: lane)
        learned(name, open)
      }
    } else {
      output.plain(heldOctets, on: lane)
    }
    close()
    chunker.restart()
    patience = LaneEncoder.patience
    return isReference
  }

  private var heldOctets: ByteBuffer { open.piece(open.readerIndex + sent, held) }

  private mutating func close() {
    open = ByteBuffer()
    sent = 0
    isNameless = false
  }

  private mutating func judge(_ isShared: Bool) -> Bool {
    patience = isShared ? LaneEncoder.patience : max(patience - 1, 0)
    return isShared
  }
}

extension ByteBuffer {
  /// Octets that are there, without copying them.
  func piece(_ start: Int, _ length: Int) -> ByteBuffer {
    guard length > 0, let slice = getSlice(at: start, length: length) else { return ByteBuffer() }
    return slice
  }
}

extension Chunker {
  mutating func next(in buffer: ByteBuffer, from index: Int) -> Int? {
    guard index < buffer.writerIndex else { return nil }
    return buffer.withUnsafeReadableBytes { next(in: UnsafeRawBufferPointer(rebasing: $0[(index - buffer.readerIndex)...])) }
  }
}
