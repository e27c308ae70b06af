/// Reads the structure of a carrier of ours (docs/wire/sctp-over-tcp.md) as it goes by: frame lengths, common headers, chunk headers, control chunks, padding.
///
/// All of that is lane 0. Where it announces users' data it says how many octets come next on which other lane, and is then given the structure behind them. What does
/// not parse ends the layout for good. Both ends of a flow run it over the same octets, which is why nothing else needs to be said about where the lanes meet.
struct CarrierLayout: Sendable {
  enum Step: Sendable, Hashable {
    /// All octets taken; more structure comes.
    case more
    /// Behind the octets taken, this many octets of a lane come next.
    case data(lane: Int, octets: Int, isSmallMessage: Bool)
    /// What has come on this lane is complete: the chunk that is open ends here.
    case cut(lane: Int)
    /// These octets do not parse: what follows is all of lane 0, and ordinary.
    case ended
  }

  /// Lanes of users' data; lane 0 comes on top. More streams than these share lanes, which costs hits and nothing else.
  static let dataLanes = 64

  private enum Field: Sendable {
    case frameLength, commonHeader, chunkHeader, tsn, stream, messageNumber, protocolIdentifier
    /// A control chunk's value, or padding.
    case value
    case ended
  }

  private var field = Field.frameLength
  /// Octets of this field that have not come.
  private var wanted = 2
  /// The field's last octets, where they matter.
  private var value: UInt32 = 0
  /// Octets of the frame behind the field.
  private var frameRest = 0
  /// Of the chunk that is being read.
  private var isInterleaved = false
  private var flags: UInt8 = 0
  private var dataOctets = 0
  private var padding = 0
  private var lane = 0

  var hasEnded: Bool { if case .ended = field { true } else { false } }

  /// Takes structure up to the next event: how many octets, and what comes then.
  mutating func advance(_ octets: UnsafeRawBufferPointer) -> (taken: Int, step: Step) {
    if hasEnded { return (0, .ended) }
    var taken = 0
    while taken < octets.count {
      let count = min(wanted, octets.count - taken)
      switch field {
      case .frameLength, .chunkHeader, .stream, .protocolIdentifier:
        for octet in octets[taken..<taken + count] { value = value << 8 | UInt32(octet) }
      default: break
      }
      taken += count
      wanted -= count
      guard wanted == 0 else { break }
      if let step = fieldEnded() { return (taken, step) }
    }
    return (taken, .more)
  }

  private mutating func fieldEnded() -> Step? {
    let value = value
    switch field {
    case .frameLength:
      // The smallest packet: a common header and an empty chunk.
      guard Int(value) >= 16 else { return end() }
      frameRest = Int(value)
      read(.commonHeader, 12)
    case .commonHeader: read(.chunkHeader, 4)
    case .chunkHeader: return chunkHeader(type: UInt8(value >> 24), flags: UInt8(value >> 16 & 0xff), length: Int(value & 0xffff))
    case .tsn: read(.stream, 2)
    case .stream:
      lane = 1 + Int(value) % Self.dataLanes
      // SSN, or two reserved octets and the MID (RFC 9260 section 3.3.1, RFC 8260 section 2.1).
      read(.messageNumber, isInterleaved ? 6 : 2)
    case .messageNumber: read(.protocolIdentifier, 4)
    case .protocolIdentifier: return userData(value)
    case .value: return nextChunk()
    case .ended: return .ended
    }
    return nil
  }

  private mutating func chunkHeader(type: UInt8, flags: UInt8, length: Int) -> Step? {
    let valueOctets = length - 4
    guard valueOctets >= 0, valueOctets <= frameRest else { return end() }
    padding = min(-length & 3, frameRest - valueOctets)
    guard type == Self.data || type == Self.interleavedData else { return skip(valueOctets + padding) }
    isInterleaved = type == Self.interleavedData
    self.flags = flags
    dataOctets = valueOctets - (isInterleaved ? 16 : 12)
    // DATA without data breaks the protocol (RFC 9260 section 6.2).
    guard dataOctets > 0 else { return end() }
    read(.tsn, 4)
    return nil
  }

  /// The chunk's own header is complete. What our ends say beside a flow's DATA is structure: it would only shift the octets of the flow.
  private mutating func userData(_ identifier: UInt32) -> Step? {
    let isFirst = flags & 2 != 0
    let isOurs = identifier >> 16 == Self.family && (isFirst || !isInterleaved)
    guard isOurs, identifier != Self.family << 16 | Self.dataKind else {
      let isSmallMessage = flags & 3 == 3 && dataOctets < ChunkLimits.minimum
      let step = Step.data(lane: lane, octets: dataOctets, isSmallMessage: isSmallMessage)
      frameRest -= dataOctets
      return skip(padding) ?? step
    }
    let cut = Self.cutting.contains(identifier & 0xffff) ? Step.cut(lane: lane) : nil
    let failure = skip(dataOctets + padding)
    return failure ?? cut
  }

  /// Passes over what is left of a chunk, and goes on behind it.
  private mutating func skip(_ octets: Int) -> Step? {
    guard octets > 0 else { return nextChunk() }
    read(.value, octets)
    return nil
  }

  private mutating func nextChunk() -> Step? {
    switch frameRest {
    case 0: read(.frameLength, 2)
    case 1...3: return end()
    default: read(.chunkHeader, 4)
    }
    return nil
  }

  private mutating func read(_ next: Field, _ octets: Int) {
    field = next
    wanted = octets
    value = 0
    if case .frameLength = next { return }
    frameRest -= octets
  }

  private mutating func end() -> Step {
    field = .ended
    wanted = 1
    return .ended
  }

  private static let data: UInt8 = 0
  private static let interleavedData: UInt8 = 0x40
  /// The upper half of our payload protocol identifiers, and the kind that a flow's octets have (docs/wire/sctp-over-tcp.md).
  private static let family: UInt32 = 0x4c48
  private static let dataKind: UInt32 = 4
  /// OPEN, OPENED, REFUSED, END, RESET: a flow begins or ends on the stream.
  private static let cutting: Set<UInt32> = [1, 2, 3, 6, 7]
}
