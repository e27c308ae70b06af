/// A number of octets.
package struct ByteCount: Hashable, Comparable, Sendable, Codable {
  package var octets: Int

  package init(_ octets: Int) { self.octets = octets }
  package static func kibibytes(_ count: Int) -> ByteCount { ByteCount(count << 10) }
  package static func mebibytes(_ count: Int) -> ByteCount { ByteCount(count << 20) }

  /// `65536`, `64K`, `256M`, `10G`, `1T`: multiples of 1,024; nil for anything else, and for less than nothing.
  package init?(_ text: some StringProtocol) {
    let units: [Character: Int] = ["K": 10, "M": 20, "G": 30, "T": 40]
    let shift = text.last.flatMap { units[$0] }
    guard let number = Int(shift == nil ? text[...] : text.dropLast()), number >= 0, number <= Int.max >> (shift ?? 0) else { return nil }
    self.init(number << (shift ?? 0))
  }

  package init(from decoder: any Decoder) throws { self.init(try decoder.singleValueContainer().decode(Int.self)) }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(octets)
  }

  package static func < (a: ByteCount, b: ByteCount) -> Bool { a.octets < b.octets }
  package static func + (a: ByteCount, b: ByteCount) -> ByteCount { ByteCount(a.octets + b.octets) }
}

/// A rate in bits per second (decimal: 1 Mbit/s is 1,000,000).
package struct BitRate: Hashable, Comparable, Sendable, Codable {
  package var bitsPerSecond: Double

  package init(bitsPerSecond: Double) { self.bitsPerSecond = bitsPerSecond }
  package static func megabitsPerSecond(_ rate: Double) -> BitRate { BitRate(bitsPerSecond: rate * 1e6) }

  package init(from decoder: any Decoder) throws { self.init(bitsPerSecond: try decoder.singleValueContainer().decode(Double.self)) }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(bitsPerSecond)
  }

  package var megabitsPerSecond: Double { bitsPerSecond / 1e6 }
  package static func < (a: BitRate, b: BitRate) -> Bool { a.bitsPerSecond < b.bitsPerSecond }

  /// How long `bytes` take at this rate; zero for a rate of zero, which means "without limit" here.
  package func time(for bytes: ByteCount) -> TimeSpan {
    bitsPerSecond > 0 ? .seconds(Double(bytes.octets) * 8 / bitsPerSecond) : .zero
  }

  /// The bandwidth-delay product.
  package func bytes(in span: TimeSpan) -> ByteCount { ByteCount(Int(bitsPerSecond / 8 * span.seconds)) }
}
