import NIOCore

/// A fuzzer's octets, read as the numbers that choose what happens next. Behind their end everything is zero.
struct Script {
  private let bytes: [UInt8]
  private var position = 0

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  var isOver: Bool { position >= bytes.count }

  mutating func byte() -> UInt8 {
    guard position < bytes.count else { return 0 }
    defer { position += 1 }
    return bytes[position]
  }

  mutating func half() -> UInt16 { UInt16(byte()) << 8 | UInt16(byte()) }
  mutating func word() -> UInt32 { UInt32(half()) << 16 | UInt32(half()) }
  mutating func below(_ limit: Int) -> Int { Int(byte()) % limit }
  mutating func flag() -> Bool { byte() & 1 == 1 }

  /// A distance from a number that the subject expects: most often a small one.
  mutating func distance() -> UInt32 {
    let first = byte()
    switch first {
    case 0..<192: return UInt32(bitPattern: Int32(first % 16) - 4)
    case 192..<224: return UInt32(bitPattern: Int32(Int16(bitPattern: half())))
    default: return word()
    }
  }

  mutating func octets(atMost limit: Int) -> [UInt8] {
    let count = below(limit + 1)
    return (0..<count).map { _ in byte() }
  }

  /// A count of octets: most often small, now and then as large as a packet or more.
  mutating func size() -> Int {
    let first = Int(byte())
    switch first {
    case 0..<128: return 1 + first
    case 128..<240: return 1 + (first - 128) * 64
    default: return 1 + Int(half())
    }
  }
}

/// What a target claims of its subject. Unlike `precondition` it says in release builds, too, what was not so.
func demand(_ holds: Bool, _ what: @autoclosure () -> String) {
  if !holds { fatalError(what()) }
}
