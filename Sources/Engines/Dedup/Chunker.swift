import Vocabulary

/// Cuts a stream where its own octets say so: FastCDC (Xia et al., 2016 and 2020), a gear hash with two masks round the average.
///
/// Where a chunk ends follows from its octets and `ChunkLimits` alone, never from how they came in. After an insertion or a deletion the boundaries are soon the old ones again.
package struct Chunker: Sendable {
  /// Octets of the chunk so far.
  package private(set) var length = 0
  private var hash: UInt64 = 0

  package init() {}

  /// A new chunk begins with the next octet.
  package mutating func restart() {
    length = 0
    hash = 0
  }

  /// Octets from the start of the buffer to the end of the chunk; nil: all taken, and the chunk goes on. A new chunk begins behind an end.
  package mutating func next(in octets: UnsafeRawBufferPointer) -> Int? {
    guard let base = octets.baseAddress else { return nil }
    let bytes = base.assumingMemoryBound(to: UInt8.self)
    let end = min(octets.count, ChunkLimits.maximum - length)
    // No boundary is looked for below the minimum, so nothing is hashed there.
    var index = min(max(ChunkLimits.minimum - length, 0), end)
    let middle = min(max(ChunkLimits.average - length, index), end)
    let found = Self.gear.withUnsafeBufferPointer { gear -> Bool in
      guard let gear = gear.baseAddress else { return false }
      return Self.scan(bytes, &index, middle, Self.strict, &hash, gear) || Self.scan(bytes, &index, end, Self.loose, &hash, gear)
    }
    if found || length + end == ChunkLimits.maximum {
      restart()
      return found ? index : end
    }
    length += end
    return nil
  }

  /// Hashes on to `end`, or to behind the first octet at which the masked hash is zero: then true.
  @inline(__always)
  private static func scan(
    _ bytes: UnsafePointer<UInt8>, _ index: inout Int, _ end: Int, _ mask: UInt64, _ hash: inout UInt64, _ gear: UnsafePointer<UInt64>
  ) -> Bool {
    var position = index
    var rolling = hash
    // Two octets a step: the second hash comes from the one before both, so each step waits for one addition instead of two.
    while position &+ 1 < end {
      let (one, two) = (gear[Int(bytes[position])], gear[Int(bytes[position &+ 1])])
      let between = rolling &* 2 &+ one
      rolling = rolling &* 4 &+ (one &* 2 &+ two)
      if between & mask == 0 {
        (index, hash) = (position &+ 1, between)
        return true
      }
      position &+= 2
      if rolling & mask == 0 {
        (index, hash) = (position, rolling)
        return true
      }
    }
    if position < end {
      rolling = rolling &+ rolling &+ gear[Int(bytes[position])]
      position &+= 1
      if rolling & mask == 0 {
        (index, hash) = (position, rolling)
        return true
      }
    }
    (index, hash) = (position, rolling)
    return false
  }

  /// (wire) 15 bits, two more than log2 of the average, below it; 11, two fewer, above it: so lengths gather round the average. The highest bits know the last 64 octets.
  static let strict: UInt64 = 0xfffe_0000_0000_0000
  static let loose: UInt64 = 0xffe0_0000_0000_0000

  /// (wire) 256 numbers of SplitMix64, seeded with "Longhaul".
  static let gear: [UInt64] = {
    var random = SeededGenerator(seed: 0x4c6f_6e67_6861_756c)
    return (0..<256).map { _ in random.next() }
  }()
}
