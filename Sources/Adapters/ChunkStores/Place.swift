/// Where a record begins: in which segment, and how many octets into it. Places grow as a store is written, and none is used twice.
struct Place: Hashable, Comparable, Sendable {
  var segment: UInt32
  var offset: UInt32

  static func < (a: Place, b: Place) -> Bool { a.packed < b.packed }

  /// Orders as the place does; fits one atomic word.
  var packed: UInt64 { UInt64(segment) << 32 | UInt64(offset) }

  init(segment: UInt32, offset: UInt32) {
    self.segment = segment
    self.offset = offset
  }

  init(packed: UInt64) { self.init(segment: UInt32(packed >> 32), offset: UInt32(truncatingIfNeeded: packed)) }
}
