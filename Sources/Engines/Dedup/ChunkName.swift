/// The name of a chunk: the first 20 octets of SHA-256 over a tenant's salt and the chunk's octets.
///
/// 160 bits: two chunks of one name take about 2^80 tries to find, by accident or on purpose. The salt keeps tenants apart: the same octets have another name with another tenant.
package struct ChunkName: Hashable, Sendable, Comparable, CustomStringConvertible {
  package static let octets = 20

  /// Octets 0 to 7, 8 to 15 and 16 to 19, big-endian.
  package let high: UInt64
  package let middle: UInt64
  package let low: UInt32

  package init(high: UInt64, middle: UInt64, low: UInt32) {
    self.high = high
    self.middle = middle
    self.low = low
  }

  package static func < (a: ChunkName, b: ChunkName) -> Bool { (a.high, a.middle, a.low) < (b.high, b.middle, b.low) }

  package var description: String {
    [String(high, radix: 16).padded(to: 16), String(middle, radix: 16).padded(to: 16), String(low, radix: 16).padded(to: 8)].joined()
  }
}

extension String {
  fileprivate func padded(to width: Int) -> String { String(repeating: "0", count: max(width - count, 0)) + self }
}

/// What a REFERENCE says of one chunk.
package struct ChunkReference: Hashable, Sendable {
  package var name: ChunkName
  /// 1 to `ChunkLimits.maximum`.
  package var octets: Int

  package init(name: ChunkName, octets: Int) {
    self.name = name
    self.octets = octets
  }
}

/// How large chunks are. (wire) Both ends cut alike.
package enum ChunkLimits {
  /// A shorter one does not pay for its name and its place in an index; only the last of a flow may be shorter.
  package static let minimum = 2 << 10
  /// 8 KiB: a name of 20 octets and a length of 4 are 0.3 % of it, and a change in a file costs about one of it.
  package static let average = 8 << 10
  /// The last chunk of a flow, or of a flow in a carrier, may be shorter than `minimum`; below this it is not named.
  package static let shortest = 512
  /// What one frame holds (`TunnelLimits.dataOctets`).
  package static let maximum = 32 << 10
}
