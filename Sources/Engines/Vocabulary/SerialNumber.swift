/// Serial number arithmetic (RFC 1982) for numbers that wrap, as RFC 9260 section 1.6 asks of TSNs and SSNs.
package protocol SerialNumber: Hashable, Sendable, CustomStringConvertible {
  associatedtype Value: FixedWidthInteger & UnsignedInteger & Sendable
  var value: Value { get set }
  init(_ value: Value)
}

extension SerialNumber {
  package var description: String { "\(value)" }
  /// How far `self` is after `other`, from -2^(n-1) to 2^(n-1)-1.
  package func distance(from other: Self) -> Int {
    let raw = value &- other.value
    return raw < Value.max / 2 + 1 ? Int(raw) : Int(raw) - Int(Value.max) - 1
  }
  package func isAfter(_ other: Self) -> Bool { distance(from: other) > 0 }
  package func isBefore(_ other: Self) -> Bool { distance(from: other) < 0 }
  package func advanced(by count: Int) -> Self { Self(value &+ Value(truncatingIfNeeded: count)) }
  package var next: Self { Self(value &+ 1) }
  package var previous: Self { Self(value &- 1) }
}
