import Dedup
import NIOCore
import SCTP
import Testing
import Vocabulary

@Suite("What the byte cache saves")
struct DeduplicationTests {
  static let file: [UInt8] = {
    var random = SeededGenerator(seed: 9)
    return random.octets(4 << 20)
  }()

  private func learned() throws -> Stores {
    var stores = Stores()
    let first = try Exchange.run(Self.file, stores: &stores)
    #expect(first.cost == Cost(plain: Self.file.count), "fresh data goes out as it is")
    return stores
  }

  @Test("4 MiB for the second time cost less than 1 %", arguments: [128 << 10, 4_000, 1_448])
  func again(piece: Int) throws {
    var stores = try learned()
    let second = try Exchange.run(Self.file, piece: piece, stores: &stores)
    #expect(second.output == Self.file)
    #expect(second.cost.wire * 100 <= Self.file.count, "\(second.cost)")
  }

  @Test("one octet more at the start costs no more than its chunk")
  func shifted() throws {
    var stores = try learned()
    let second = try Exchange.run([0x55] + Self.file, stores: &stores)
    #expect(second.cost.plain <= 2 * ChunkLimits.maximum, "\(second.cost)")
    #expect(second.cost.wire * 100 <= Self.file.count * 2)
  }

  @Test("one octet changed in the middle costs at most 3 chunks", arguments: 0..<20)
  func changed(seed: Int) throws {
    var stores = try learned()
    var file = Self.file
    var random = SeededGenerator(seed: UInt64(seed))
    let place = Int.random(in: 0..<file.count, using: &random)
    file[place] ^= 0x10
    let second = try Exchange.run(file, piece: 16 << 10, stores: &stores)
    #expect(second.output == file)
    #expect(second.sent.count <= 3, "\(second.sent.count) chunks went out plain")
  }

  @Test("a flow of 10,000 octets that comes again is one of references alone, its last chunk too")
  func short() throws {
    var stores = Stores()
    let object = Array(Self.file.prefix(10_000))
    _ = try Exchange.run(object, stores: &stores)
    let second = try Exchange.run(object, stores: &stores)
    #expect(second.cost.plain < ChunkLimits.shortest && second.output == object, "\(second.cost)")
  }

  @Test("a conversation that is the same again: its answers are known, though the first octets of each differ", arguments: [false, true])
  func conversation(inside: Bool) throws {
    var stores = Stores()
    var costs: [Cost] = []
    for round: UInt64 in 1...3 {
      var exchange = Exchange(stores: stores)
      var carrier = CarrierBuilder(seed: round)
      var expected: [UInt8] = []
      for answer in 0..<30 {
        var octets = Self.file[answer * 100_000..<answer * 100_000 + 64_000]
        octets[octets.startIndex + 5] = UInt8(round)
        if inside {
          for start in stride(from: 0, to: 64_000, by: 16_000) {
            carrier.message(octets[octets.startIndex + start..<octets.startIndex + start + 16_000], stream: 3)
          }
          octets = carrier.bytes[...]
          carrier.bytes = []
        }
        expected += octets
        try exchange.pause()
        try exchange.append(octets)
        try exchange.flush()
        #expect(exchange.output == expected, "an answer waits")
      }
      try exchange.end()
      stores = exchange.stores
      costs.append(exchange.cost)
    }
    // Of each answer its first chunk alone is new.
    for cost in costs.dropFirst() { #expect(cost.plain <= 30 * 14_000 && cost.referenced >= 30 * 50_000, "\(cost)") }
  }

  @Test("a file that was sent outside a session is known inside one", arguments: [false, true])
  func inside(isInterleaved: Bool) throws {
    var stores = try learned()
    var carrier = CarrierBuilder(seed: 3, isInterleaved: isInterleaved)
    carrier.file(Self.file, stream: 5)
    let second = try Exchange.run(carrier.bytes, stores: &stores)
    #expect(second.output == carrier.bytes)
    #expect(second.cost.referenced * 100 >= carrier.bytes.count * 95, "\(second.cost)")
    #expect(second.cost.wire * 100 <= Self.file.count * 2, "\(second.cost)")
  }

  @Test("a file that was sent inside a session is known outside, and in another session")
  func outside() throws {
    var stores = Stores()
    var carrier = CarrierBuilder(seed: 3)
    carrier.file(Self.file, stream: 5)
    _ = try Exchange.run(carrier.bytes, stores: &stores)
    let plain = try Exchange.run(Self.file, stores: &stores)
    #expect(plain.cost.wire * 100 <= Self.file.count, "\(plain.cost)")
    var other = CarrierBuilder(seed: 77)
    other.file(Self.file, stream: 900)
    let second = try Exchange.run(other.bytes, stores: &stores)
    #expect(second.cost.wire * 100 <= Self.file.count * 2, "\(second.cost)")
  }

  @Test("the carriers of a real session are seen through, the first and a later one, in both directions", arguments: [false, true])
  func session(isInterleaved: Bool) throws {
    var session = RecordedSession(isInterleaved: isInterleaved)
    try #require(session.isEstablished)
    let file = Array(Self.file.prefix(1 << 20))
    session.send(file, stream: 3)
    session.move(to: CarrierID(2))
    session.send(file, stream: 4)
    var stores = Stores()
    _ = try Exchange.run(file, stores: &stores)
    for carrier: UInt64 in [1, 2] {
      let way = RecordedSession.Way(carrier: CarrierID(carrier), isFromAgent: true)
      let down = try #require(session.carried[way])
      let exchange = try Exchange.run(down, piece: 50_000, stores: &stores)
      #expect(exchange.output == down)
      #expect(exchange.cost.referenced == file.count, "carrier \(carrier): \(exchange.cost)")
      let up = try #require(session.carried[RecordedSession.Way(carrier: CarrierID(carrier), isFromAgent: false)])
      let other = try Exchange.run(up, stores: &stores)
      #expect(other.output == up && other.sent.isEmpty, "structure is not named")
    }
  }

  @Test("what is held on a carrier goes out when it stops to be one")
  func broken() throws {
    var exchange = Exchange()
    var carrier = CarrierBuilder(seed: 3)
    carrier.message(Self.file.prefix(5_000), stream: 9)
    try exchange.append(carrier.bytes)
    #expect(exchange.encoder.heldOctets > 0)
    try exchange.append([0, 1])
    #expect(exchange.output == carrier.bytes + [0, 1] && exchange.encoder.heldOctets == 0)
  }

  @Test("many small files in one session are known one by one")
  func small() throws {
    var stores = Stores()
    let files = (0..<40).map { Array(Self.file[$0 * 50_000..<$0 * 50_000 + 3_000 + $0 * 400]) }
    for file in files { _ = try Exchange.run(file, stores: &stores) }
    var carrier = CarrierBuilder(seed: 6)
    for (index, file) in files.enumerated().reversed() { carrier.file(file, stream: UInt16(index % 4)) }
    let second = try Exchange.run(carrier.bytes, stores: &stores)
    let octets = files.reduce(0) { $0 + $1.count }
    #expect(second.output == carrier.bytes)
    #expect(second.cost.referenced * 100 >= octets * 95, "\(second.cost)")
  }

  @Test("streams that take turns on a carrier are known each by itself", arguments: [2, 8])
  func interleaved(streams: Int) throws {
    var stores = try learned()
    let size = Self.file.count / streams
    var carrier = CarrierBuilder(seed: 3)
    for start in stride(from: 0, to: size, by: 16 << 10) {
      for stream in 0..<streams {
        carrier.message(Self.file[stream * size + start..<stream * size + min(start + 16 << 10, size)], stream: UInt16(stream))
      }
    }
    let second = try Exchange.run(carrier.bytes, piece: 64 << 10, stores: &stores)
    #expect(second.output == carrier.bytes)
    #expect(second.cost.referenced * 100 >= carrier.bytes.count * 95, "\(second.cost)")
  }

  @Test("a small message on a carrier does not wait, and holds up nobody")
  func smallMessage() throws {
    var exchange = Exchange()
    var carrier = CarrierBuilder(seed: 3)
    carrier.message([1, 2, 3, 4], stream: 9)
    try exchange.append(carrier.bytes)
    #expect(exchange.output == carrier.bytes && exchange.encoder.heldOctets == 0)
  }

  @Test("octets that a stream leaves behind go out when the others have gone on")
  func stale() throws {
    var exchange = Exchange()
    var carrier = CarrierBuilder(seed: 3)
    carrier.message(Self.file.prefix(3_000), stream: 9)
    carrier.message(Self.file[10_000..<13_000], stream: 10)
    try exchange.append(carrier.bytes)
    #expect(exchange.encoder.heldOctets > 0)
    var written = carrier.bytes.count
    for _ in 0..<12 {
      carrier.message(Self.file.prefix(16 << 10), stream: 11)
      try exchange.append(carrier.bytes[written...])
      written = carrier.bytes.count
    }
    #expect(exchange.encoder.heldOctets <= ChunkLimits.maximum)
    #expect(exchange.output.count >= 128 << 10)
  }

  @Test("fresh data is held back at a flow's beginning alone")
  func fresh() throws {
    var exchange = Exchange()
    var random = SeededGenerator(seed: 1)
    for _ in 0..<20 { try exchange.append(random.octets(16 << 10)) }
    #expect(exchange.encoder.heldOctets == 0)
  }

  @Test("ciphertext goes out plain, and neither end learns from it", arguments: ["tls", "client", "agent"])
  func opaque(kind: String) throws {
    let first: [UInt8] =
      switch kind {
      case "tls": [0x16, 0x03, 0x01, 2, 0]
      case "client": Array("LHS1".utf8) + [1, 2, 3]
      default: [1, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 9]
      }
    var stores = try learned()
    let bytes = first + Self.file.prefix(1 << 20)
    let exchange = try Exchange.run(bytes, stores: &stores)
    #expect(exchange.encoder.isOpaque && exchange.decoder.isOpaque)
    #expect(exchange.cost == Cost(plain: bytes.count) && exchange.output == bytes)
    #expect(exchange.sent.isEmpty && exchange.got.isEmpty)
  }

  @Test("an idle flow that gives up its copies goes on as before, but for the names of its open chunks")
  func trimmed() throws {
    var exchange = Exchange(stores: try learned())
    for start in stride(from: 0, to: 1 << 20, by: 50_000) {
      try exchange.append(Self.file[start..<start + 50_000])
      try exchange.flush()
      exchange.encoder.trim()
      exchange.decoder.trim()
    }
    try exchange.end()
    #expect(exchange.output == Array(Self.file.prefix(exchange.output.count)) && exchange.output.count >= 1 << 20)
    // The one chunk that each flush broke went out plain; all others are references.
    #expect(exchange.sent.isEmpty && exchange.got.isEmpty)
    #expect(exchange.cost.referenced > exchange.output.count * 3 / 5)
  }

  @Test("without room for pins all goes out plain, and is learned")
  func full() throws {
    var exchange = Exchange(stores: try learned())
    exchange.encoder.allowsReferences = false
    try exchange.append(Self.file)
    #expect(exchange.cost == Cost(plain: Self.file.count) && exchange.sent.count > 100)
    exchange.encoder.allowsReferences = true
    try exchange.append(Self.file)
    #expect(exchange.cost.references > 100)
  }
}
