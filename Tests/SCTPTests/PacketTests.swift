import NIOCore
import SCTP
import Testing
import Vocabulary

/// The chunk types of a packet, read without the engine's help.
func chunkTypes(_ packet: ByteBuffer) -> [UInt8] {
  var rest = packet
  rest.moveReaderIndex(forwardBy: 12)
  var types: [UInt8] = []
  while let type = rest.readInteger(as: UInt8.self), rest.readInteger(as: UInt8.self) != nil,
    let length = rest.readInteger(as: UInt16.self), length >= 4
  {
    types.append(type)
    rest.moveReaderIndex(forwardBy: min(Int(length) - 4 + (-Int(length) & 3), rest.readableBytes))
  }
  return types
}

/// The packet with a checksum that fits what was changed in it.
func rechecksummed(_ packet: ByteBuffer) -> ByteBuffer {
  var packet = packet
  packet.setInteger(UInt32(0), at: packet.readerIndex + 8)
  packet.setInteger(Checksum.both(Array(packet.readableBytesView)).tables, at: packet.readerIndex + 8, endianness: .little)
  return packet
}

@Suite("Packets")
struct PacketTests {
  @Test("CRC32c of 123456789 is e3069283, both ways")
  func checkValue() {
    let both = Checksum.both(Array("123456789".utf8))
    #expect(both.tables == 0xe306_9283)
    #expect(both.hardware == nil || both.hardware == 0xe306_9283)
  }

  @Test("the tables and the processor agree on any octets")
  func agreement() {
    var random = SeededGenerator(seed: 4)
    for _ in 0..<500 {
      let bytes = (0..<Int.random(in: 0...3_000, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
      let both = Checksum.both(bytes)
      #expect(both.hardware == nil || both.tables == both.hardware, "\(bytes.count) octets")
    }
  }

  /// Real packets of a whole conversation, to be damaged.
  static let corpus: [ByteBuffer] = {
    var duo = Duo.established()
    duo.z?.announce(Duo.z4, at: duo.network.now)
    _ = duo.a.send(message(3_000), stream: StreamID(2), protocolIdentifier: 3, endOfWrite: true)
    duo.run(for: .seconds(2.0))
    let second = duo.dial()
    duo.move(to: second)
    duo.run(for: .seconds(2.0))
    duo.a.shutdown(at: duo.network.now)
    duo.run(for: .seconds(2.0))
    return duo.trace.map(\.packet)
  }()

  @Test("no damage to a packet, with a checksum that fits, brings the association or the listener down", arguments: 0..<30)
  func damage(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed))
    for _ in 0..<100 {
      var duo = Duo.established(seed: UInt64(seed))
      var packet = Self.corpus.randomElement(using: &random)!
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        let at = packet.readerIndex + Int.random(in: 0..<packet.readableBytes, using: &random)
        switch Int.random(in: 0..<4, using: &random) {
        case 0: packet.setInteger(UInt8.random(in: 0...255, using: &random), at: at)
        case 1 where packet.readableBytes > 20:
          packet = packet.getSlice(at: packet.readerIndex, length: Int.random(in: 12..<packet.readableBytes, using: &random))!
        case 2: packet.setInteger([0, 4, 0xff, 0x80].randomElement(using: &random)! as UInt8, at: at)
        default: if at + 2 <= packet.writerIndex { packet.setInteger(UInt16.random(in: 0...70, using: &random), at: at) }
        }
      }
      // With the right tag, so that it gets as far as it can.
      packet.setInteger(Bool.random(using: &random) ? duo.z!.localVerificationTag : 0, at: packet.readerIndex + 4)
      let whole = rechecksummed(packet)
      duo.z?.receive(whole, on: CarrierID(1), at: duo.network.now)
      duo.receiveAtZ(whole, on: duo.lines[duo.dial()]!)
      duo.a.receive(whole, on: CarrierID(1), at: duo.network.now)
      duo.run(for: .milliseconds(100 as Int64))
    }
  }

  @Test("a packet cut short at any octet is dropped, and the association goes on or says that its carrier is damaged")
  func cutShort() {
    for packet in Self.corpus.prefix(12) {
      for length in stride(from: 0, to: min(packet.readableBytes, 300), by: 1) {
        var duo = Duo.established()
        duo.z?.receive(packet.getSlice(at: packet.readerIndex, length: length)!, on: CarrierID(1), at: duo.network.now)
        duo.run(for: .milliseconds(10 as Int64))
        #expect(duo.z?.state == .established)
      }
    }
  }

  @Test("random octets are refused")
  func noise() {
    var random = SeededGenerator(seed: 9)
    var duo = Duo.established()
    for _ in 0..<2_000 {
      let noise = ByteBuffer(bytes: (0..<Int.random(in: 0...200, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) })
      duo.receiveAtZ(noise, on: duo.lines[duo.dial()]!)
    }
    #expect(duo.ignored.count == 2_000)
    #expect(duo.z?.state == .established)
  }
}
