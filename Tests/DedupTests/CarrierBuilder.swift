import Vocabulary

/// Writes a carrier in open mode: INIT, then packets of DATA or I-DATA chunks, with SACKs among them.
struct CarrierBuilder {
  var bytes: [UInt8] = []
  var isInterleaved = false
  var packetOctets = 32 << 10
  private var random: SeededGenerator
  private var tsn: UInt32 = 1_000

  init(seed: UInt64, isInterleaved: Bool = false) {
    random = SeededGenerator(seed: seed)
    self.isInterleaved = isInterleaved
    packet(tag: 0, [chunk(1, 0, random.octets(96))])
  }

  /// One user message as its own packet, or in several.
  mutating func message(_ payload: some Collection<UInt8>, stream: UInt16, identifier: UInt32 = 0x4c48_0004) {
    var rest = payload[...]
    var isFirst = true
    repeat {
      let part = rest.prefix(packetOctets - 48)
      rest = rest.dropFirst(part.count)
      packet(tag: 7, [data(part, stream: stream, identifier: identifier, flags: (isFirst ? 2 : 0) | (rest.isEmpty ? 1 : 0))])
      isFirst = false
    } while !rest.isEmpty
  }

  /// A file in messages of 16 KiB, as a flow's DATA has them, two in each packet, between OPENED and END.
  mutating func file(_ payload: [UInt8], stream: UInt16) {
    message([0, 1, 0, 0], stream: stream, identifier: 0x4c48_0002)
    for start in stride(from: 0, to: payload.count, by: 32 << 10) {
      let parts = stride(from: start, to: min(start + 32 << 10, payload.count), by: 16 << 10).map {
        payload[$0..<min($0 + 16 << 10, payload.count)]
      }
      packet(tag: 7, parts.map { data($0, stream: stream, identifier: 0x4c48_0004, flags: 3) })
      if start / (32 << 10) % 3 == 0 { sack() }
    }
    message([0], stream: stream, identifier: 0x4c48_0006)
  }

  mutating func sack() { packet(tag: 7, [chunk(3, 0, random.octets(12))]) }

  mutating func data(_ payload: some Collection<UInt8>, stream: UInt16, identifier: UInt32, flags: UInt8) -> [UInt8] {
    tsn += 1
    let rest: [UInt8] = isInterleaved ? [0, 0] + big(tsn) : [0, 0]
    return chunk(isInterleaved ? 0x40 : 0, flags, big(tsn) + Array(big(UInt32(stream)).suffix(2)) + rest + big(identifier) + payload)
  }

  func chunk(_ type: UInt8, _ flags: UInt8, _ value: [UInt8]) -> [UInt8] {
    let length = value.count + 4
    return [type, flags, UInt8(length >> 8), UInt8(length & 255)] + value + [UInt8](repeating: 0, count: -length & 3)
  }

  /// Two octets of length, a common header with a checksum that is never the same, chunks.
  mutating func packet(tag: UInt32, _ chunks: [[UInt8]]) {
    let octets = 12 + chunks.reduce(0) { $0 + $1.count }
    bytes += [UInt8(octets >> 8), UInt8(octets & 255), 0x1d, 0xb0, 0x1d, 0xb0] + big(tag) + random.octets(4)
    for chunk in chunks { bytes += chunk }
  }

  private func big(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(value >> UInt32(24 - 8 * $0) & 255) } }
}
