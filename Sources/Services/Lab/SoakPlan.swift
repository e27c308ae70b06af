import NIOCore
import Vocabulary

/// What one connection of the soak does. Both ends know it from the connection's number, so that each knows what must come.
struct SoakPlan: Sendable, Hashable, CustomStringConvertible {
  enum Ending: Sendable, Hashable {
    /// Each direction ends when all of it has been sent.
    case whole
    /// The client has sent everything before it reads anything: its direction is closed while the other has hardly begun.
    case halfClosedEarly
    /// The client goes with a RST when so many octets have come.
    case clientAborts(after: Int)
    /// The server goes with a RST when it has sent so many octets.
    case serverAborts(after: Int)
    /// The client reads nothing for a time when so many octets have come, and then goes on.
    case clientStops(after: Int, milliseconds: Int64)
  }

  /// 2 MB now and then, so that windows are used.
  private static let most = 2_000_000
  /// Contents that come again and again, as they do in a cache.
  private static let sharedContents: UInt64 = 64
  /// The first octets of every connection, from its client: the number.
  static let headerOctets = 8

  var number: UInt64
  /// Octets from client to server, and back.
  var up: Int
  var down: Int
  /// Each direction goes out in so many pieces, with such pauses between two.
  var pieces: Int
  var pauseMilliseconds: Int64
  var ending: Ending
  private var upSeed: UInt64
  private var downSeed: UInt64
  private var isText: Bool

  /// - Parameter longestSeconds: the longest that the pauses of a connection come to.
  init(number: UInt64, seed: UInt64, longestSeconds: Double) {
    self.number = number
    var random = SeededGenerator(seed: seed &* 0x9e37_79b9_7f4a_7c15 ^ number)
    func size() -> Int {
      // One in 64 is large; the others are from 1 octet to 64 KiB, small ones as often as large ones.
      if random.next() & 63 == 0 { return Int.random(in: 100_000...SoakPlan.most, using: &random) }
      return Int.random(in: 1...(1 << Int.random(in: 0...16, using: &random)), using: &random)
    }
    up = size()
    down = size()
    pieces = Int.random(in: 1...8, using: &random)
    pauseMilliseconds = Int64(Double.random(in: 0...longestSeconds, using: &random) * 1_000 / Double(pieces))
    isText = random.next() & 1 == 0
    let isShared = random.next() & 1 == 0
    upSeed = isShared ? random.next() % SoakPlan.sharedContents : random.next()
    downSeed = isShared ? random.next() % SoakPlan.sharedContents : random.next()
    switch random.next() % 16 {
    case 0: ending = .clientAborts(after: Int.random(in: 0..<down, using: &random))
    case 1: ending = .serverAborts(after: Int.random(in: 0..<down, using: &random))
    case 2, 3:
      ending = .clientStops(after: Int.random(in: 0..<down, using: &random), milliseconds: Int64.random(in: 10...2_000, using: &random))
    case 4, 5: ending = .halfClosedEarly
    default: ending = .whole
    }
  }

  var description: String { "up \(up), down \(down), \(pieces) pieces, pauses \(pauseMilliseconds) ms, \(ending)" }

  var upContents: SoakContents { SoakContents(seed: upSeed, isText: isText) }
  var downContents: SoakContents { SoakContents(seed: downSeed ^ 1 << 63, isText: isText) }
}

/// An endless row of octets that follows from a seed, made or compared piece by piece.
struct SoakContents: Sendable {
  private var random: SeededGenerator
  private let isText: Bool
  /// Octets of a word that has been begun, the next in the lowest place.
  private var word: UInt64 = 0
  private var left = 0

  init(seed: UInt64, isText: Bool) {
    random = SeededGenerator(seed: seed)
    self.isText = isText
  }

  private mutating func next() -> UInt8 {
    if left == 0 {
      word = random.next()
      // Letters a to p, the half of them in each octet: half as many bits.
      if isText { word = word & 0x0f0f_0f0f_0f0f_0f0f | 0x6060_6060_6060_6060 }
      left = 8
    }
    defer {
      word >>= 8
      left -= 1
    }
    return UInt8(truncatingIfNeeded: word)
  }

  mutating func write(_ count: Int, to buffer: inout ByteBuffer) {
    buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: count) { target in
      for index in 0..<count { target[index] = next() }
      return count
    }
  }

  /// Whether these are the next octets.
  mutating func matches(_ buffer: ByteBuffer) -> Bool {
    buffer.withUnsafeReadableBytes { octets in
      for octet in octets where octet != next() { return false }
      return true
    }
  }
}
