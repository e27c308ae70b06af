import Dedup
import NIOCore
import Testing
import Vocabulary

@Suite("The chunker")
struct ChunkerTests {
  static func lengths(_ bytes: [UInt8], piece: Int) -> [Int] {
    var chunker = Chunker()
    var lengths: [Int] = []
    var open = 0
    var index = 0
    while index < bytes.count {
      let end = min(index + piece, bytes.count)
      let length = bytes[index..<end].withUnsafeBytes { chunker.next(in: $0) }
      open += length ?? end - index
      index += length ?? end - index
      if length != nil {
        lengths.append(open)
        open = 0
      }
    }
    return lengths
  }

  @Test("cuts alike however the octets come in")
  func pieces() {
    var random = SeededGenerator(seed: 5)
    let bytes = random.octets(300_000) + [UInt8](repeating: 7, count: 100_000) + random.octets(100_000)
    let whole = Self.lengths(bytes, piece: bytes.count)
    for piece in [1, 63, 2_047, 2_048, 2_049, 8_191, 40_000] { #expect(Self.lengths(bytes, piece: piece) == whole, "pieces of \(piece)") }
  }

  @Test("chunks keep their limits, and are 8 KiB on average")
  func limits() {
    var random = SeededGenerator(seed: 6)
    let lengths = Self.lengths(random.octets(16 << 20), piece: 1 << 20)
    #expect(lengths.allSatisfy { (ChunkLimits.minimum...ChunkLimits.maximum).contains($0) })
    let average = lengths.reduce(0, +) / lengths.count
    #expect((7 << 10...11 << 10).contains(average), "the average is \(average)")
    #expect(lengths.filter { $0 == ChunkLimits.maximum }.count * 100 < lengths.count)
  }

  @Test("octets that are all the same are cut at the maximum")
  func same() {
    #expect(Self.lengths([UInt8](repeating: 0, count: 200_000), piece: 200_000).allSatisfy { $0 == ChunkLimits.maximum })
  }

  @Test("boundaries are those of the wire's description")
  func described() {
    // docs/wire/bytecache.md, octet by octet.
    var random = SeededGenerator(seed: 0x4c6f_6e67_6861_756c)
    let gear = (0..<256).map { _ in random.next() }
    var octets = SeededGenerator(seed: 8)
    let bytes = octets.octets(1 << 20)
    var expected: [Int] = []
    var (length, hash) = (0, UInt64(0))
    for byte in bytes {
      length += 1
      guard length > 2_048 else { continue }
      hash = hash << 1 &+ gear[Int(byte)]
      if hash >> (length <= 8_192 ? 49 : 53) == 0 || length == 32_768 {
        expected.append(length)
        (length, hash) = (0, 0)
      }
    }
    #expect(Self.lengths(bytes, piece: 70_000) == expected)
    #expect(Array(expected.prefix(3)) == Array(Self.lengths(bytes, piece: 1 << 20).prefix(3)))
  }
}
