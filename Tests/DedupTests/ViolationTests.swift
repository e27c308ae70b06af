import Dedup
import NIOCore
import Testing
import Vocabulary

@Suite("What a peer of the byte cache must not do")
struct ViolationTests {
  private let octets = ByteBuffer(bytes: SeededGenerator.known.prefix(3_000))
  private var reference: ChunkReference { ChunkReference(name: octets.withUnsafeReadableBytes { testNamer($0) }, octets: 3_000) }
  private func decoder() -> ChunkDecoder { ChunkDecoder(namer: testNamer, maximumPending: 100_000) }
  private func ignore(_ name: ChunkName, _ bytes: ByteBuffer) {}

  @Test("a chunk under another's name ends the flow; so does one of another length")
  func forged() throws {
    var decoder = decoder()
    try decoder.reference(reference)
    #expect(decoder.next(ahead: 1) == .want(ordinal: 0, reference))
    var forged = octets
    forged.setInteger(UInt8(1), at: 17)
    #expect(throws: ChunkViolation.otherName(reference)) { try decoder.supply(0, forged, verify: true) }
    #expect(throws: ChunkViolation.otherLength(reference, octets: 2_999)) {
      try decoder.supply(0, octets.getSlice(at: 0, length: 2_999) ?? octets, verify: true)
    }
    try decoder.supply(0, octets, verify: true)
    #expect(decoder.next(ahead: 1) == .bytes(octets))
  }

  @Test("a chunk that nobody asked for is refused")
  func unasked() throws {
    var decoder = decoder()
    #expect(throws: ChunkViolation.unknownOrdinal(0)) { try decoder.supply(0, octets, verify: true) }
    try decoder.reference(reference)
    #expect(throws: ChunkViolation.notAskedFor(0)) { try decoder.supply(0, octets, verify: true) }
    _ = decoder.next(ahead: 1)
    try decoder.supply(0, octets, verify: true)
    #expect(throws: ChunkViolation.notAskedFor(0)) { try decoder.supply(0, octets, verify: true) }
    try decoder.supply(0, octets, verify: false)
    #expect(decoder.next(ahead: 1) == .bytes(octets))
    #expect(throws: ChunkViolation.unknownOrdinal(0)) { try decoder.supply(0, octets, verify: true) }
    try decoder.supply(0, octets, verify: false)
  }

  @Test("what is looked for is what comes next, as far ahead as the owner wants, and each reference once")
  func ahead() throws {
    var decoder = decoder()
    for _ in 0..<10 { try decoder.reference(reference) }
    func wanted(_ ahead: Int) -> [UInt32] {
      var ordinals: [UInt32] = []
      while case .want(let ordinal, _)? = decoder.next(ahead: ahead) { ordinals.append(ordinal) }
      return ordinals
    }
    #expect(wanted(0) == [])
    #expect(wanted(1) == [0])
    #expect(wanted(6_001) == [1, 2])
    for ordinal: UInt32 in 0..<3 { try decoder.supply(ordinal, octets, verify: false) }
    #expect(decoder.resolvedCount == 3)
    for _ in 0..<3 { #expect(decoder.next(ahead: 0) == .bytes(octets)) }
    #expect(wanted(6_001) == [3, 4, 5])
    #expect(decoder.undeliveredOctets == 7 * 3_000 && decoder.pendingOctets == 0)
  }

  @Test("a reference inside a chunk, too long or too short")
  func references() throws {
    for size in [0, 1, 511, 32_769, -5] {
      var decoder = decoder()
      #expect(throws: ChunkViolation.wrongLength(ChunkReference(name: reference.name, octets: size))) {
        try decoder.reference(ChunkReference(name: reference.name, octets: size))
      }
    }
    for count in [1, 500] {
      var decoder = decoder()
      try decoder.plain(ByteBuffer(repeating: 1, count: count), learned: ignore)
      #expect(throws: ChunkViolation.insideChunk) { try decoder.reference(reference) }
    }
  }

  @Test("more than a window of octets or of names behind a reference")
  func pending() throws {
    var decoder = decoder()
    try decoder.reference(reference)
    try decoder.plain(ByteBuffer(repeating: 1, count: 97_000), learned: ignore)
    #expect(throws: ChunkViolation.tooMuchPending(limit: 100_000)) {
      try decoder.plain(ByteBuffer(repeating: 1, count: 1), learned: ignore)
    }
    decoder = self.decoder()
    for _ in 0..<33 { try decoder.reference(reference) }
    #expect(throws: ChunkViolation.tooMuchPending(limit: 100_000)) { try decoder.reference(reference) }
  }

  @Test("lanes where there are none, or that do not exist")
  func lanes() throws {
    var decoder = decoder()
    try decoder.lane(0, learned: ignore)
    #expect(throws: ChunkViolation.unknownLane(1)) { try decoder.lane(1, learned: ignore) }
    try decoder.plain(ByteBuffer(bytes: CarrierBuilder(seed: 1).bytes), learned: ignore)
    try decoder.lane(64, learned: ignore)
    #expect(throws: ChunkViolation.unknownLane(65)) { try decoder.lane(65, learned: ignore) }
    #expect(throws: ChunkViolation.laneOverrun(64)) { try decoder.plain(octets, learned: ignore) }
    #expect(throws: ChunkViolation.laneOverrun(64)) { try decoder.reference(reference) }
    try decoder.lane(0, learned: ignore)
    #expect(throws: ChunkViolation.insideStructure) { try decoder.reference(reference) }
  }

  @Test("a reference among ciphertext")
  func opaque() throws {
    var decoder = decoder()
    try decoder.plain(ByteBuffer(bytes: [0x16, 3]), learned: ignore)
    #expect(throws: ChunkViolation.insideCiphertext) { try decoder.reference(reference) }
  }

  @Test("an end that leaves gaps, though a carrier may break off anywhere")
  func ends() throws {
    var carrier = CarrierBuilder(seed: 1)
    carrier.packet(tag: 7, [carrier.data([UInt8](repeating: 1, count: 40), stream: 0, identifier: 1, flags: 3)])
    let all = carrier.bytes
    var decoder = decoder()
    try decoder.plain(ByteBuffer(bytes: all.dropLast(40)), learned: ignore)
    try decoder.lane(1, learned: ignore)
    try decoder.plain(ByteBuffer(repeating: 1, count: 30), learned: ignore)
    try decoder.end(learned: ignore)
    var rest = all.count - 40
    while case .bytes(let bytes)? = decoder.next(ahead: 0) { rest -= bytes.readableBytes }
    #expect(rest == -30 && decoder.undeliveredOctets == 0)

    decoder = self.decoder()
    try decoder.plain(ByteBuffer(bytes: all.dropLast(40) + [0, 16]), learned: ignore)
    #expect(throws: ChunkViolation.endsInside(lane: 1)) { try decoder.end(learned: ignore) }
  }

  @Test("MISSING twice or for nothing, RESOLVED beyond what was sent; ordinals go round")
  func sender() throws {
    var encoder = ChunkEncoder(namer: testNamer)
    let bytes = ByteBuffer(bytes: SeededGenerator.known)
    encoder.append(bytes, isShared: { _ in true }, learned: ignore)
    var references: [ChunkReference] = []
    while let piece = encoder.nextPiece() { if case .reference(let reference) = piece { references.append(reference) } }
    let count = UInt32(references.count)
    #expect(count > 20 && encoder.pinnedOctets == references.reduce(0) { $0 + $1.octets })
    let (name, chunk) = try encoder.missing(3)
    #expect(name == references[3].name && chunk.withUnsafeReadableBytes { testNamer($0) } == name)
    #expect(throws: ChunkViolation.askedTwice(3)) { _ = try encoder.missing(3) }
    #expect(throws: ChunkViolation.unknownOrdinal(count)) { _ = try encoder.missing(count) }
    #expect(throws: ChunkViolation.resolvedTooMany(count + 1, underWay: Int(count))) { try encoder.resolved(upTo: count + 1) }
    try encoder.resolved(upTo: 5)
    #expect(throws: ChunkViolation.unknownOrdinal(4)) { _ = try encoder.missing(4) }
    #expect(throws: ChunkViolation.resolvedTooMany(4, underWay: Int(count) - 5)) { try encoder.resolved(upTo: 4) }
    try encoder.resolved(upTo: count)
    #expect(encoder.pinnedOctets == 0)
  }

  @Test("every violation says what it was")
  func texts() {
    #expect("\(ChunkViolation.otherName(reference))".contains("\(reference.name)"))
    #expect("\(ChunkViolation.laneOverrun(3))" == "more octets on lane 3 than lane 0 has announced")
  }
}
