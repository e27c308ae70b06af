import Dedup
import NIOCore
import Testing
import Vocabulary

@Suite("A flow through the byte cache")
struct RoundTripTests {
  /// Texts, noise and repetitions, with parts of a known body.
  static func input(_ random: inout SeededGenerator, _ known: [UInt8]) -> [UInt8] {
    var bytes: [UInt8] = []
    for _ in 0..<Int.random(in: 1...6, using: &random) {
      switch Int.random(in: 0..<4, using: &random) {
      case 0: bytes += random.octets(Int.random(in: 0...60_000, using: &random))
      case 1: bytes += [UInt8](repeating: UInt8.random(in: 0...255, using: &random), count: Int.random(in: 1...80_000, using: &random))
      default:
        let start = Int.random(in: 0..<known.count, using: &random)
        bytes += known[start..<min(start + Int.random(in: 1...150_000, using: &random), known.count)]
      }
    }
    return bytes
  }

  static func carrier(_ random: inout SeededGenerator, _ known: [UInt8]) -> [UInt8] {
    var carrier = CarrierBuilder(seed: random.next(), isInterleaved: Bool.random(using: &random))
    carrier.packetOctets = [1_400, 9_000, 32 << 10].randomElement(using: &random) ?? 1_400
    for _ in 0..<Int.random(in: 1...30, using: &random) {
      let stream = UInt16.random(in: 0...70, using: &random)
      switch Int.random(in: 0..<6, using: &random) {
      case 0: carrier.sack()
      case 1:
        carrier.message(
          random.octets(Int.random(in: 1...40, using: &random)), stream: stream, identifier: 0x4c48_0000 + UInt32(random.next() % 8))
      case 2: carrier.file(input(&random, known), stream: stream)
      default: carrier.message(input(&random, known).prefix(16 << 10), stream: stream % 3, identifier: 0x4c48_0004)
      }
    }
    switch Int.random(in: 0..<4, using: &random) {
    case 0: carrier.bytes += input(&random, known)
    case 1: carrier.bytes.removeLast(Int.random(in: 0..<carrier.bytes.count, using: &random))
    default: break
    }
    return carrier.bytes
  }

  @Test(
    "what comes out is what went in, and both ends learn the same names, whatever the cuts, the beliefs and the losses", arguments: 0..<150)
  func property(seed: Int) throws {
    var random = SeededGenerator(seed: UInt64(seed))
    let known = SeededGenerator.known
    var stores = Stores()
    if seed % 2 == 0 { stores = try Exchange.run(known, stores: &stores).stores }
    for _ in 0..<3 {
      let bytes = seed % 3 == 0 ? Self.carrier(&random, known) : Self.input(&random, known)
      var exchange = Exchange(stores: stores)
      let lost = random.next() % 4
      exchange.isEvicted = { UInt64($0.low) % 4 < lost }
      exchange.ahead = [1, 4_096, 1 << 20].randomElement(using: &random) ?? 1
      var index = 0
      let largest = [3, 700, 9_000, 200_000].randomElement(using: &random) ?? 3
      while index < bytes.count {
        // Small pieces are for the first octets: the rest would only take time.
        let size = Int.random(in: 1...(index > 2_000 ? max(largest, 5_000) : largest), using: &random)
        try exchange.append(bytes[index..<min(index + size, bytes.count)])
        index += size
        #expect(exchange.encoder.heldOctets <= ChunkEncoder.heldLimit)
        if Int.random(in: 0..<8, using: &random) == 0 {
          try exchange.flush()
          #expect(exchange.encoder.heldOctets == 0)
          #expect(exchange.output.count == min(index, bytes.count), "seed \(seed): a flush leaves octets behind")
        }
        if Int.random(in: 0..<10, using: &random) == 0 { try exchange.pause() }
        if Int.random(in: 0..<8, using: &random) == 0 { exchange.encoder.allowsReferences.toggle() }
      }
      try exchange.end()
      #expect(exchange.output == bytes, "seed \(seed)")
      #expect(exchange.sent == exchange.got || Set(exchange.sent) == Set(exchange.got), "seed \(seed): the ends learned different names")
      #expect(exchange.sent.count == exchange.got.count, "seed \(seed)")
      #expect(exchange.encoder.pinnedOctets == 0 && exchange.decoder.pendingOctets == 0 && exchange.decoder.undeliveredOctets == 0)
      stores = exchange.stores
    }
  }
}

extension SeededGenerator {
  /// A body that is known to all tests.
  static let known: [UInt8] = {
    var random = SeededGenerator(seed: 41)
    return random.octets(400_000)
  }()
}
