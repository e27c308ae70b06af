import DequeModule
import NIOCore

/// What a receiver's owner is to do next.
package enum Decoded: Sendable, Hashable {
  /// The next octets of the flow.
  case bytes(ByteBuffer)
  /// Look for this chunk: in the store, or by MISSING. Once for each reference.
  case want(ordinal: UInt32, ChunkReference)
}

/// One direction of one flow, the receiving end of the byte cache: pieces go in, octets come out.
///
/// It names what it really got: chunks that came plain are cut and named as the sender cut them, and what is sent for a reference has the reference's name, or the flow ends.
package struct ChunkDecoder: Sendable {
  private enum Mode: Sendable {
    case undecided, ordinary, opaque, carrier
  }

  private let namer: ChunkNamer
  private let maximumPending: Int
  private var mode = Mode.undecided
  /// The first octets, until the flow's kind is known.
  private var head = ByteBuffer()
  private var layout = CarrierLayout()
  private var lanes = [LaneDecoder()]
  private var lane = 0
  private var plan = LanePlan()
  private var references = ReferenceBook()
  private var arrived = 0
  private var delivered = 0
  /// Plain octets that are not passed on yet.
  package private(set) var pendingOctets = 0

  /// `maximumPending` is the flow's window: no correct peer has more octets under way, in whatever form. It bounds what is kept, names too: at most a window's worth of the shortest chunks.
  package init(namer: ChunkNamer, maximumPending: Int) {
    self.namer = namer
    self.maximumPending = maximumPending
  }

  /// Octets that have come, plain or as references, and are not passed on yet.
  package var undeliveredOctets: Int { arrived - delivered }

  /// Ciphertext, by its first octets: nothing is learned.
  package var isOpaque: Bool { mode == .opaque }

  /// References, from the first on without a gap, that need no pin any more, modulo 2^32: when it has grown, RESOLVED is due.
  package var resolvedCount: UInt32 { references.resolvedCount }

  /// `learned` is told the chunk that may end with this.
  package mutating func lane(_ value: UInt16, learned: (ChunkName, ByteBuffer) -> Void) throws(ChunkViolation) {
    let number = value & ~EncodedPiece.cut
    let isCarrier = mode == .carrier || layout.hasEnded
    guard number == 0 || isCarrier && number <= CarrierLayout.dataLanes else { throw .unknownLane(number) }
    while lanes.count <= number { lanes.append(LaneDecoder()) }
    lane = Int(number)
    if value != number { lanes[lane].endChunk(namer: namer, learned: learned) }
  }

  /// Plain octets; `learned` is told each whole chunk among them.
  package mutating func plain(_ bytes: ByteBuffer, learned: (ChunkName, ByteBuffer) -> Void) throws(ChunkViolation) {
    guard bytes.readableBytes > 0 else { return }
    guard undeliveredOctets + bytes.readableBytes <= maximumPending else { throw .tooMuchPending(limit: maximumPending) }
    if lane > 0, bytes.readableBytes > lanes[lane].missing { throw .laneOverrun(UInt16(lane)) }
    pendingOctets += bytes.readableBytes
    arrived += bytes.readableBytes
    lanes[lane].items.append(.plain(bytes))
    if lane > 0 { return lanes[lane].learn(bytes, namer: namer, learned: learned) }
    var bytes = bytes
    if mode == .undecided { decide(&bytes) }
    if mode == .carrier { structure(&bytes, learned) }
    if mode == .ordinary { lanes[0].learn(bytes, namer: namer, learned: learned) }
  }

  package mutating func reference(_ reference: ChunkReference) throws(ChunkViolation) {
    guard (ChunkLimits.shortest...ChunkLimits.maximum).contains(reference.octets) else { throw .wrongLength(reference) }
    guard undeliveredOctets + reference.octets <= maximumPending else { throw .tooMuchPending(limit: maximumPending) }
    switch mode {
    case .opaque: throw .insideCiphertext
    case .carrier where lane == 0: throw .insideStructure
    // A sender that begins with a reference has seen that the flow is nothing special.
    case .undecided where head.readableBytes == 0: becomeOrdinary()
    case .undecided: throw .insideChunk
    case .ordinary, .carrier: break
    }
    guard lanes[lane].isAtBoundary else { throw .insideChunk }
    if lane > 0, reference.octets > lanes[lane].missing { throw .laneOverrun(UInt16(lane)) }
    lanes[lane].reference(references.append(reference, at: arrived), octets: reference.octets)
    arrived += reference.octets
  }

  /// The sender has ended its direction: the chunks that are open end with it.
  package mutating func end(learned: (ChunkName, ByteBuffer) -> Void) throws(ChunkViolation) {
    for index in lanes.indices {
      lanes[index].endChunk(namer: namer, learned: learned)
      // A carrier may break off inside users' data, but then nothing stands behind them.
      if index > 0, lanes[index].missing > plan.last(on: index) { throw .endsInside(lane: UInt16(index)) }
    }
  }

  /// For a flow that has been idle for long: gives up the copies of chunks that have not ended, which then are not learned, and room that is not in use.
  package mutating func trim() {
    for index in lanes.indices { lanes[index].trim() }
    plan.trim()
    references.trim()
  }

  /// The owner has the chunk: from the store, or, to be verified, from a CHUNK.
  package mutating func supply(_ ordinal: UInt32, _ bytes: ByteBuffer, verify: Bool) throws(ChunkViolation) {
    try references.supply(ordinal, bytes, verifiedBy: verify ? namer : nil)
  }

  /// The owner has seen that it lacks the chunk, and asks the peer before its turn: it is not `want`ed any more.
  package mutating func ask(_ ordinal: UInt32) { _ = references.want(ordinal) }

  /// What to do next; nil: nothing until something comes. Only the chunks among the next `ahead` octets of the flow are looked for, so that a receiver that has stopped keeps names.
  package mutating func next(ahead: Int) -> Decoded? {
    if let (ordinal, reference) = references.nextToWant(after: delivered, within: ahead) { return .want(ordinal: ordinal, reference) }
    guard let run = plan.first, let item = lanes[run.lane].items.first else { return nil }
    switch item {
    case .plain(let octets):
      let bytes = pass(octets, run) { .plain($0) }
      pendingOctets -= bytes.readableBytes
      return .bytes(bytes)
    case .rebuilt(let octets): return .bytes(pass(octets, run) { .rebuilt($0) })
    case .reference(let ordinal):
      if let octets = references.take(ordinal) { return .bytes(pass(octets, run) { .rebuilt($0) }) }
      // Lanes do not come in the order of the flow: the one that is needed now may stand far behind.
      guard ahead > 0, let reference = references.want(ordinal) else { return nil }
      return .want(ordinal: ordinal, reference)
    }
  }
}

extension ChunkDecoder {
  /// Passes octets on as far as the run goes; what is left stays at the front of its lane.
  private mutating func pass(_ octets: ByteBuffer, _ run: LanePlan.Run, _ rest: (ByteBuffer) -> LaneDecoder.Item) -> ByteBuffer {
    var octets = octets
    let bytes = octets.readSlice(length: min(run.octets, octets.readableBytes)) ?? ByteBuffer()
    if octets.readableBytes > 0 {
      lanes[run.lane].items[0] = rest(octets)
    } else {
      lanes[run.lane].items.removeFirst()
    }
    plan.pass(bytes.readableBytes)
    delivered += bytes.readableBytes
    return bytes
  }

  private mutating func becomeOrdinary() {
    mode = .ordinary
    plan.leaveToLaneZero()
  }

  /// Takes the flow's first octets, one by one, until they say what it is, as the sender does.
  private mutating func decide(_ bytes: inout ByteBuffer) {
    while mode == .undecided, let octet = bytes.readInteger(as: UInt8.self) {
      head.writeInteger(octet)
      plan.append(1, of: 0)
      switch FlowKind(head) {
      case nil: break
      case .ordinary?:
        becomeOrdinary()
        lanes[0].learn(head, namer: namer) { _, _ in }
      case .opaque?:
        mode = .opaque
        plan.leaveToLaneZero()
      case .carrier?:
        mode = .carrier
        _ = head.withUnsafeReadableBytes { layout.advance($0) }
      }
    }
    if mode != .undecided { head = ByteBuffer() }
  }

  /// Reads a carrier's structure as far as it is one; what is left then is ordinary.
  private mutating func structure(_ bytes: inout ByteBuffer, _ learned: (ChunkName, ByteBuffer) -> Void) {
    while bytes.readableBytes > 0, !layout.hasEnded {
      let (taken, step) = bytes.withUnsafeReadableBytes { layout.advance($0) }
      bytes.moveReaderIndex(forwardBy: taken)
      plan.append(taken, of: 0)
      switch step {
      case .more: break
      case .data(let lane, let octets, _):
        while lanes.count <= lane { lanes.append(LaneDecoder()) }
        lanes[lane].announce(octets)
        plan.append(octets, of: lane)
      case .cut(let lane):
        while lanes.count <= lane { lanes.append(LaneDecoder()) }
        lanes[lane].cut(namer: namer, learned: learned)
      case .ended: becomeOrdinary()
      }
    }
  }
}
