/// What DATA of one flow and direction is made of.
package enum DataCoding: UInt8, Sendable, Hashable, Comparable {
  case plain = 0
  /// zstd frames (RFC 8878), flushed at the end of each DATA; a LITERAL between them is not part of the zstd stream.
  case zstd = 1
  /// The same, and REFERENCE in place of chunks that the receiver has.
  case cached = 2

  package static func < (a: DataCoding, b: DataCoding) -> Bool { a.rawValue < b.rawValue }
}
