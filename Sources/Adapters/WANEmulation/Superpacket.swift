/// A packet as a TUN device with virtio-net headers gives it: ten octets of header, then IPv4. A TCP superpacket stands for many segments.
package struct Superpacket {
  package static let headerLength = 10
  /// virtio_net_hdr: flags 0, gso_type 1, hdr_len 2, gso_size 4, csum_start 6, csum_offset 8.
  private static let gsoTCPv4: UInt8 = 1
  private static let needsChecksum: UInt8 = 1

  package var bytes: [UInt8]

  package init(_ bytes: [UInt8]) { self.bytes = bytes }

  /// What the packet looks like on the wire.
  package struct Shape: Equatable {
    /// IP and TCP header together; zero for a packet that is sent as it is.
    package var headers = 0
    package var internetHeader = 0
    /// Octets of payload in each segment but the last.
    package var segmentSize = 0
    package var segments = 1
    /// IP octets of all segments, their headers counted each time.
    package var wireOctets: Int
  }

  /// Nil if it is not IPv4, or not whole.
  package var shape: Shape? { Superpacket.shape(of: bytes) }

  package static func shape(of bytes: some RandomAccessCollection<UInt8>) -> Shape? {
    func octet(_ offset: Int) -> UInt8 { bytes[bytes.index(bytes.startIndex, offsetBy: offset)] }
    let length = bytes.count - headerLength
    guard length >= 20, octet(headerLength) >> 4 == 4 else { return nil }
    guard octet(1) & 0x7f == gsoTCPv4 else { return Shape(wireOctets: length) }
    let size = Int(octet(4)) | Int(octet(5)) << 8
    // The header's length comes from the packet itself: virtio_net_hdr.hdr_len is a hint that may be wrong.
    let internet = Int(octet(headerLength) & 15) * 4
    guard size > 0, internet >= 20, length >= internet + 20 else { return nil }
    let headers = internet + Int(octet(headerLength + internet + 12) >> 4) * 4
    guard headers >= internet + 20, length > headers else { return Shape(wireOctets: length) }
    let payload = length - headers
    let segments = (payload + size - 1) / size
    return Shape(
      headers: headers, internetHeader: internet, segmentSize: size, segments: segments, wireOctets: payload + segments * headers)
  }

  /// The superpacket of the segments in `range`, with its lengths, sequence number, flags and checksums put right.
  package func part(_ range: Range<Int>, of shape: Shape) -> Superpacket {
    let start = range.lowerBound * shape.segmentSize
    let payload = bytes.count - Superpacket.headerLength - shape.headers
    let end = min(range.upperBound * shape.segmentSize, payload)
    let head = Superpacket.headerLength + shape.headers
    var part = Superpacket(Array(bytes[..<head]) + bytes[(head + start)..<(head + end)])
    if range.count == 1 {
      part.bytes[1] = 0
      part.store(0, at: 4)
    }
    let ip = Superpacket.headerLength
    let tcp = ip + shape.internetHeader
    part.store(UInt16(shape.headers + end - start), at: ip + 2)
    part.store(load(at: ip + 4) &+ UInt16(truncatingIfNeeded: range.lowerBound), at: ip + 4)
    part.store(0, at: ip + 10)
    part.store(~part.sum(ip..<tcp), at: ip + 10)
    let sequence = (UInt32(load(at: tcp + 4)) << 16 | UInt32(load(at: tcp + 6))) &+ UInt32(start)
    part.store(UInt16(sequence >> 16), at: tcp + 4)
    part.store(UInt16(sequence & 0xffff), at: tcp + 6)
    if range.upperBound < shape.segments { part.bytes[tcp + 13] &= ~0x09 }  // FIN and PSH belong to the last segment
    if range.lowerBound > 0 { part.bytes[tcp + 13] &= ~0x80 }  // CWR to the first
    // The checksum is left to the receiver of the packet (CHECKSUM_PARTIAL): the field holds the sum of the pseudo-header.
    part.bytes[0] |= Superpacket.needsChecksum
    part.store(part.sum((ip + 12)..<(ip + 20), startingWith: 6 + UInt32(shape.headers - shape.internetHeader + end - start)), at: tcp + 16)
    return part
  }

  private func load(at offset: Int) -> UInt16 { UInt16(bytes[offset]) << 8 | UInt16(bytes[offset + 1]) }

  private mutating func store(_ value: UInt16, at offset: Int) {
    bytes[offset] = UInt8(value >> 8)
    bytes[offset + 1] = UInt8(value & 255)
  }

  /// The Internet checksum's sum (RFC 1071), not complemented.
  private func sum(_ range: Range<Int>, startingWith start: UInt32 = 0) -> UInt16 {
    var sum = start
    for offset in stride(from: range.lowerBound, to: range.upperBound, by: 2) { sum += UInt32(load(at: offset)) }
    while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
    return UInt16(sum)
  }

  /// Segments that survive: runs of those for which `isLost` says no.
  package static func survivors(of count: Int, isLost: () -> Bool) -> [Range<Int>] {
    var runs: [Range<Int>] = []
    var start = 0
    for index in 0..<count where isLost() {
      if index > start { runs.append(start..<index) }
      start = index + 1
    }
    if start < count { runs.append(start..<count) }
    return runs
  }
}
