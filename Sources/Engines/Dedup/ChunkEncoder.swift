import NIOCore

/// One direction of one flow, the sending end of the byte cache: octets go in, pieces come out.
///
/// At most `heldLimit` octets wait inside for the end of a chunk; `flush` sends them on their way. The chunks behind references stay pinned until the receiver has them.
package struct ChunkEncoder: Sendable {
  private enum Mode: Sendable {
    case undecided, ordinary, opaque, carrier
  }

  /// The worst case of `heldOctets`: a chunk that has not ended on each lane, 65 x 32 KiB. Flows that are no carriers have one lane.
  package static let heldLimit = (1 + CarrierLayout.dataLanes) * ChunkLimits.maximum
  /// A lane that holds octets keeps the receiver from all that came after them: when the flow has gone on by so much, they go out.
  /// 8 streams that take turns by 16 KiB keep theirs.
  private static let staleOctets = 128 << 10

  private let namer: ChunkNamer
  private var mode = Mode.undecided
  /// The first octets, until the flow's kind is known; and how many of them have gone out.
  private var head = ByteBuffer()
  private var headSent = 0
  private var layout = CarrierLayout()
  /// Where in the carrier the octets stand: users' data of this lane, so many to come.
  private var run = (lane: 0, octets: 0, isSmallMessage: false)
  private var lanes = [LaneEncoder(lane: 0)]
  private var position = 0
  private var output = EncoderOutput()
  /// False: everything goes out plain. For an owner whose limit of pinned octets is reached.
  package var allowsReferences = true

  package init(namer: ChunkNamer) { self.namer = namer }

  /// Takes octets of the flow. `isShared` says that the peer is believed to have a chunk; `learned` is told each whole chunk that goes out plain.
  package mutating func append(_ bytes: ByteBuffer, isShared: (ChunkName) -> Bool, learned: (ChunkName, ByteBuffer) -> Void) {
    var bytes = bytes
    if mode == .undecided { decide(&bytes) }
    guard bytes.readableBytes > 0 else { return }
    position += bytes.readableBytes
    switch mode {
    case .undecided: break
    case .opaque: output.plain(bytes, on: 0)
    case .ordinary: append(bytes, to: 0, isShared, learned)
    case .carrier:
      appendCarrier(bytes, isShared, learned)
      flushStale(isShared)
    }
  }

  /// Octets that are held back because they may become part of a reference.
  package var heldOctets: Int { lanes.reduce(head.readableBytes - headSent) { $0 + $1.held } }

  /// Ciphertext, by its first octets: all goes out plain, and nothing is learned.
  package var isOpaque: Bool { mode == .opaque }

  /// Sends out what is held: the flow has gone idle. It goes out plain, and its chunks are still learned at their ends; or as a reference, if the same octets ended a chunk before
  /// (`pause`, `end`).
  package mutating func flush(isShared: (ChunkName) -> Bool = { _ in false }) {
    flushHead()
    for index in lanes.indices where lanes[index].held > 0 { flush(index, isShared) }
  }

  /// The flow was quiet, and is about to go on: what it has said so far is a whole, such as a response. Chunks that are open end here, if they have come to the minimum, and are learned.
  package mutating func pause(isShared: (ChunkName) -> Bool, learned: (ChunkName, ByteBuffer) -> Void) {
    for index in lanes.indices where lanes[index].openOctets >= ChunkLimits.minimum {
      if !cut(index, isShared, learned) { output.cut(on: UInt16(index)) }
    }
  }

  /// The flow's direction ends: its last chunk ends with it, and may be a reference. Nothing is appended afterwards.
  package mutating func end(isShared: (ChunkName) -> Bool, learned: (ChunkName, ByteBuffer) -> Void) {
    flushHead()
    for index in lanes.indices { cut(index, isShared, learned) }
  }

  /// For a flow that has been idle for long: gives up the copies of chunks that have gone out in part, which then are not learned, and room that is not in use.
  package mutating func trim() {
    for index in lanes.indices { lanes[index].trim() }
    output.trim()
  }

  package mutating func nextPiece() -> EncodedPiece? { output.next() }

  // MARK: References under way

  /// Octets of chunks that the receiver may still ask for.
  package var pinnedOctets: Int { output.pins.octets }

  /// The receiver needs the first `count` references no more (modulo 2^32).
  package mutating func resolved(upTo count: UInt32) throws(ChunkViolation) { try output.pins.resolved(upTo: count) }

  /// The octets to send in a CHUNK; they stay pinned.
  package mutating func missing(_ ordinal: UInt32) throws(ChunkViolation) -> (ChunkName, ByteBuffer) {
    try output.pins.missing(ordinal)
  }
}

extension ChunkEncoder {
  /// Takes the flow's first octets, one by one, until they say what it is.
  private mutating func decide(_ bytes: inout ByteBuffer) {
    while let octet = bytes.readInteger(as: UInt8.self) {
      position += 1
      head.writeInteger(octet)
      guard let kind = FlowKind(head) else { continue }
      switch kind {
      case .ordinary:
        mode = .ordinary
        lanes[0].begin(with: head, sent: headSent)
      case .opaque:
        mode = .opaque
        flushHead()
      case .carrier:
        mode = .carrier
        _ = head.withUnsafeReadableBytes { layout.advance($0) }
        flushHead()
      }
      head = ByteBuffer()
      headSent = 0
      return
    }
  }

  private mutating func flushHead() {
    output.plain(head.piece(head.readerIndex + headSent, head.readableBytes - headSent), on: 0)
    headSent = head.readableBytes
  }

  /// First all structure of these octets, then the users' data, lane by lane: the receiver knows from the structure where they belong.
  private mutating func appendCarrier(_ bytes: ByteBuffer, _ isShared: (ChunkName) -> Bool, _ learned: (ChunkName, ByteBuffer) -> Void) {
    var bytes = bytes
    var structure = ByteBuffer()
    var data: [LaneOctets] = []
    while bytes.readableBytes > 0, !layout.hasEnded {
      if run.octets > 0 {
        let piece = bytes.readSlice(length: min(run.octets, bytes.readableBytes)) ?? ByteBuffer()
        run.octets -= piece.readableBytes
        data.append(LaneOctets(lane: run.lane, octets: piece, then: run.octets == 0 && run.isSmallMessage ? .flush : .nothing))
        continue
      }
      let (taken, step) = bytes.withUnsafeReadableBytes { layout.advance($0) }
      structure.writeImmutableBuffer(bytes.readSlice(length: taken) ?? ByteBuffer())
      switch step {
      case .more, .ended: break
      case .data(let lane, let octets, let isSmallMessage): run = (lane, octets, isSmallMessage)
      case .cut(let lane): data.append(LaneOctets(lane: lane, octets: ByteBuffer(), then: .cut))
      }
    }
    output.plain(structure, on: 0)
    for piece in data {
      append(piece.octets, to: piece.lane, isShared, learned)
      switch piece.then {
      case .nothing: break
      case .flush: flush(piece.lane, isShared)
      case .cut: cut(piece.lane, isShared, learned)
      }
    }
    guard layout.hasEnded else { return }
    mode = .ordinary
    for index in lanes.indices where lanes[index].held > 0 { flush(index, isShared) }
    append(bytes, to: 0, isShared, learned)
  }

  /// Users' data of one lane, and what comes of them behind these octets.
  private struct LaneOctets {
    enum Then { case nothing, flush, cut }

    var lane: Int
    var octets: ByteBuffer
    var then: Then
  }

  private mutating func flushStale(_ isShared: (ChunkName) -> Bool) {
    for index in lanes.indices where lanes[index].held > 0 && position - lanes[index].heldSince > Self.staleOctets {
      flush(index, isShared)
    }
  }

  private mutating func flush(_ lane: Int, _ isShared: (ChunkName) -> Bool) {
    let mayName = allowsReferences
    lanes[lane].flush(namer: namer, isShared: { mayName && isShared($0) }, output: &output)
  }

  private mutating func append(
    _ octets: ByteBuffer, to lane: Int, _ isShared: (ChunkName) -> Bool, _ learned: (ChunkName, ByteBuffer) -> Void
  ) {
    while lanes.count <= lane { lanes.append(LaneEncoder(lane: UInt16(lanes.count))) }
    guard octets.readableBytes > 0 else { return }
    lanes[lane].append(
      octets, at: position, holds: allowsReferences, namer: namer, isShared: isShared, learned: learned, output: &output)
  }

  @discardableResult
  private mutating func cut(_ lane: Int, _ isShared: (ChunkName) -> Bool, _ learned: (ChunkName, ByteBuffer) -> Void) -> Bool {
    lanes[lane].cut(holds: allowsReferences, namer: namer, isShared: isShared, learned: learned, output: &output)
  }
}
