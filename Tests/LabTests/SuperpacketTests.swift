import Testing
import Vocabulary
import WANEmulation

@Suite("Segments within a superpacket")
struct SuperpacketTests {
  /// A TCP superpacket with so much payload in segments of so many octets, with PSH and FIN set.
  static func packet(payload: Int, segment: Int) -> Superpacket {
    var bytes = [UInt8](repeating: 0, count: 10)
    bytes[1] = 1
    bytes[4] = UInt8(segment & 255)
    bytes[5] = UInt8(segment >> 8)
    var ip: [UInt8] = [0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 10, 0, 1, 2, 10, 2, 0, 4]
    let length = 40 + payload
    ip[2] = UInt8(length >> 8)
    ip[3] = UInt8(length & 255)
    let tcp: [UInt8] = [0x12, 0x34, 0x56, 0x78, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 1, 0x50, 0x19, 1, 0, 0, 0, 0, 0]
    return Superpacket(bytes + ip + tcp + (0..<payload).map { UInt8($0 & 255) })
  }

  func internetChecksum(_ bytes: ArraySlice<UInt8>) -> UInt16 {
    var sum: UInt32 = 0
    let list = Array(bytes)
    for index in stride(from: 0, to: list.count, by: 2) { sum += UInt32(list[index]) << 8 | UInt32(list[index + 1]) }
    while sum >> 16 != 0 { sum = sum & 0xffff + sum >> 16 }
    return UInt16(sum)
  }

  @Test("its shape counts the headers of every segment")
  func shape() throws {
    let shape = try #require(Self.packet(payload: 3_000, segment: 1_448).shape)
    #expect(shape.segments == 3)
    #expect(shape.headers == 40)
    #expect(shape.wireOctets == 3_000 + 3 * 40)
  }

  @Test("a part has the right lengths, sequence number, identifier and checksum, and the payload of its place")
  func part() throws {
    let whole = Self.packet(payload: 3_000, segment: 1_000)
    let shape = try #require(whole.shape)
    let part = whole.part(1..<2, of: shape)
    #expect(part.bytes.count == 10 + 40 + 1_000)
    #expect(part.bytes[1] == 0, "one segment is no superpacket")
    #expect(Int(part.bytes[12]) << 8 | Int(part.bytes[13]) == 1_040)
    #expect(UInt16(part.bytes[14]) << 8 | UInt16(part.bytes[15]) == 0x1235)
    #expect(internetChecksum(part.bytes[10..<30]) == 0xffff)
    let sequence = part.bytes[34..<38].reduce(UInt32(0)) { $0 << 8 | UInt32($1) }
    #expect(sequence == UInt32(0xffff_fff0) &+ 1_000)
    #expect(part.bytes[43] & 0x09 == 0, "PSH and FIN belong to the last segment")
    #expect(Array(part.bytes[50...]) == (1_000..<2_000).map { UInt8($0 & 255) })
    let last = whole.part(2..<3, of: shape)
    #expect(last.bytes[43] & 0x09 == 0x09)
  }

  @Test("what survives is every segment that was not lost, once and in order")
  func survivors() {
    var random = SeededGenerator(seed: 3)
    for _ in 0..<1_000 {
      let count = Int.random(in: 1...45, using: &random)
      let lost = (0..<count).map { _ in Bool.random(using: &random) }
      var next = 0
      let runs = Superpacket.survivors(of: count) {
        defer { next += 1 }
        return lost[next]
      }
      #expect(runs.flatMap { Array($0) } == (0..<count).filter { !lost[$0] })
    }
  }

  @Test("what is no whole IPv4 packet has no shape", arguments: [0, 5, 10, 29])
  func short(length: Int) {
    #expect(Superpacket([UInt8](repeating: 0x45, count: length)).shape == nil)
  }

  @Test("a header that lies about its lengths is not followed beyond the packet")
  func lies() {
    var packet = Self.packet(payload: 100, segment: 50)
    packet.bytes[10] = 0x4f  // an IP header of 60 octets
    packet.bytes[10 + 60 + 12] = 0xf0  // and a TCP header of 60: more than there is
    #expect(packet.shape.map { $0.wireOctets <= packet.bytes.count } ?? true)
  }
}
