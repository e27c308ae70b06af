import NIOCore
import SCTP
import Vocabulary

/// What the other end of an association would know of it, learnt from the packets that the association sends, and the writer of packets to it.
///
/// A script that had to guess a tag, a TSN or a checksum would never get behind the first lines of the engine.
struct Peer: Sendable {
  static let port: UInt16 = 7_600

  /// What the association wants to see in packets for it, and what it puts into its own.
  var tag: UInt32 = 0
  var ownTag: UInt32 = 1
  /// The last TSN that the association says it has.
  var cumulative: UInt32 = 0
  /// The next TSN that it will use.
  var nextTSN: UInt32 = 0
  /// The serial number of its latest ASCONF.
  var serial: UInt32 = 0
  /// The serial number that our next ASCONF should have, and the sequence number of our next RE-CONFIG.
  var ownSerial: UInt32 = 0
  var cookie: [UInt8] = []
  var heartbeat: [UInt8] = []
  private var recent: [ByteBuffer] = []

  mutating func learn(_ packet: ByteBuffer) {
    if recent.count == 16 { recent.removeFirst() }
    recent.append(packet)
    var rest = packet
    guard rest.readableBytes >= 12 else { return }
    if let tag = rest.getInteger(at: rest.readerIndex + 4, as: UInt32.self), tag != 0 { ownTag = tag }
    rest.moveReaderIndex(forwardBy: 12)
    while let type = rest.readInteger(as: UInt8.self), rest.readInteger(as: UInt8.self) != nil,
      let length = rest.readInteger(as: UInt16.self),
      length >= 4, let value = rest.readSlice(length: Int(length) - 4)
    {
      learn(type, value)
      rest.moveReaderIndex(forwardBy: min(-Int(length) & 3, rest.readableBytes))
    }
  }

  private mutating func learn(_ type: UInt8, _ value: ByteBuffer) {
    let first = value.getInteger(at: value.readerIndex, as: UInt32.self) ?? 0
    switch type {
    case 0, 64: if Int32(bitPattern: first &- nextTSN) >= 0 { nextTSN = first &+ 1 }
    case 1, 2:
      tag = first
      nextTSN = value.getInteger(at: value.readerIndex + 12, as: UInt32.self) ?? 0
      if type == 2 { cookie = Self.parameter(7, of: value) ?? cookie }
    case 3: cumulative = first
    case 4: heartbeat = Array(value.readableBytesView)
    case 0x82, 0xc1: serial = first
    default: break
    }
  }

  private static func parameter(_ wanted: UInt16, of initiation: ByteBuffer) -> [UInt8]? {
    var rest = initiation
    guard rest.readSlice(length: 16) != nil else { return nil }
    while let type = rest.readInteger(as: UInt16.self), let length = rest.readInteger(as: UInt16.self), length >= 4,
      let value = rest.readBytes(length: Int(length) - 4)
    {
      if type == wanted { return value }
      rest.moveReaderIndex(forwardBy: min(-Int(length) & 3, rest.readableBytes))
    }
    return nil
  }

  // MARK: Packets

  /// A packet as the script wants it: now and then one of the subject's own, else chunks with fields that nearly fit.
  mutating func packet(_ script: inout Script) -> ByteBuffer {
    let shape = script.byte()
    if shape >= 240, !recent.isEmpty { return recent[script.below(recent.count)] }
    var bytes = ByteBuffer()
    bytes.writeInteger(Self.port)
    bytes.writeInteger(Self.port)
    switch shape % 16 {
    case 0: bytes.writeInteger(UInt32(0))
    case 1: bytes.writeInteger(ownTag)
    case 2: bytes.writeInteger(script.word())
    default: bytes.writeInteger(tag)
    }
    bytes.writeInteger(UInt32(0))
    if shape & 16 != 0 {
      bytes.writeChunk(15, 0) {
        $0.writeInteger(UInt16(0))
        $0.writeInteger(UInt16(3))
        $0.writeBytes(OpenAuthenticator.code)
      }
    }
    for _ in 0..<(1 + Int(shape >> 5) % 4) { chunk(&script, into: &bytes) }
    bytes.writeChecksum()
    return bytes
  }

  private mutating func chunk(_ script: inout Script, into bytes: inout ByteBuffer) {
    let choice = script.below(28)
    let flags = script.byte()
    switch choice {
    case 0...3:
      let (tsn, size) = (cumulative &+ script.distance(), script.size())
      bytes.writeChunk(0, flags) {
        $0.writeInteger(tsn)
        $0.writeInteger(UInt16(script.byte() % 8))
        $0.writeInteger(UInt16(script.byte() % 8))
        $0.writeInteger(UInt32(script.byte()))
        $0.writeRepeatingByte(7, count: script.byte() == 255 ? 0 : size)
      }
    case 4...6:
      let tsn = cumulative &+ script.distance()
      bytes.writeChunk(64, flags) {  // I-DATA: message identifier, then PPID or fragment number
        $0.writeInteger(tsn)
        $0.writeInteger(UInt16(script.byte() % 8))
        $0.writeInteger(UInt16(0))
        $0.writeInteger(UInt32(script.byte() % 8))
        $0.writeInteger(UInt32(script.byte() % 8))
        $0.writeRepeatingByte(9, count: script.size())
      }
    case 7...9:
      let (tsn, window) = (nextTSN &- 1 &+ script.distance(), script.flag() ? 1 << 20 : script.word())
      let (blocks, doubles) = (script.below(6), script.below(3))
      let lie = script.byte() == 255 ? UInt16(9) : 0
      bytes.writeChunk(3, flags) {
        $0.writeInteger(tsn)
        $0.writeInteger(window)
        $0.writeInteger(UInt16(blocks) &+ lie)
        $0.writeInteger(UInt16(doubles))
        for _ in 0..<blocks * 2 { $0.writeInteger(script.flag() ? UInt16(script.byte()) : script.half()) }
        for _ in 0..<doubles { $0.writeInteger(script.word()) }
      }
    case 10, 11:
      let number = ownSerial &+ (script.byte() < 200 ? 0 : script.distance())
      if number == ownSerial { ownSerial &+= 1 }
      bytes.writeChunk(0xc1, flags) {
        $0.writeInteger(number)
        Self.address(&script, into: &$0)
        for _ in 0..<script.below(4) { Self.addressRequest(&script, into: &$0) }
      }
    case 12:
      let number = serial &+ (script.byte() < 200 ? 0 : script.distance())
      bytes.writeChunk(0x80, flags) {
        $0.writeInteger(number)
        for _ in 0..<script.below(3) { Self.anyParameter([0xc003, 0xc005], &script, into: &$0) }
      }
    case 13:
      let (number, kind) = (ownSerial &+ script.distance(), UInt16(13 + script.below(6)))
      bytes.writeChunk(0x82, flags) {  // RE-CONFIG: requests, and answers to the subject's own
        $0.writeParameter(kind) {
          $0.writeInteger(kind == 16 ? serial &+ script.distance() : number)
          $0.writeInteger(kind == 16 ? UInt32(script.byte() % 8) : serial)
          $0.writeInteger(cumulative &+ script.distance())
          for _ in 0..<script.below(6) { $0.writeInteger(UInt16(script.byte() % 8)) }
        }
      }
    case 14, 15:
      let (type, tsn) = (script.flag() ? 192 as UInt8 : 194, cumulative &+ script.distance())
      bytes.writeChunk(type, flags) {  // FORWARD-TSN and I-FORWARD-TSN
        $0.writeInteger(tsn)
        for _ in 0..<script.below(5) {
          $0.writeInteger(UInt16(script.byte() % 8))
          $0.writeInteger(UInt16(script.byte() % 8))
          if type == 194 { $0.writeInteger(UInt32(script.byte() % 8)) }
        }
      }
    case 16, 17:
      let (type, window, streams) = (script.flag() ? 1 as UInt8 : 2, script.word(), script.half())
      bytes.writeChunk(type, flags) {
        $0.writeInteger(script.byte() == 255 ? 0 : ownTag)
        $0.writeInteger(window)
        $0.writeInteger(streams)
        $0.writeInteger(script.half())
        $0.writeInteger(ownSerial)
        for _ in 0..<script.below(8) { initiationParameter(&script, into: &$0) }
      }
    case 18: bytes.writeChunk(10, flags) { $0.writeBytes(script.flag() ? cookie : script.octets(atMost: 200)) }
    case 19: bytes.writeChunk(4, flags) { $0.writeParameter(1) { $0.writeBytes(script.octets(atMost: 40)) } }
    case 20: bytes.writeChunk(5, flags) { $0.writeBytes(heartbeat) }
    case 21:
      let tsn = nextTSN &- 1 &+ script.distance()
      bytes.writeChunk(7, flags) { $0.writeInteger(tsn) }
    case 22: bytes.writeChunk([8, 11, 14, 6][script.below(4)], flags)
    case 23: bytes.writeChunk(9, flags) { Self.anyParameter([1, 3, 6, 10, 12], &script, into: &$0) }
    case 24: bytes.writeChunk(0x84, flags) { $0.writeRepeatingByte(0, count: script.size()) }  // PAD
    default:
      let type = script.byte()
      bytes.writeChunk(type, flags, lie: script.byte() < 32 ? script.byte() : 0) { $0.writeBytes(script.octets(atMost: 64)) }
    }
  }

  private func initiationParameter(_ script: inout Script, into bytes: inout ByteBuffer) {
    switch script.below(8) {
    case 0: Self.address(&script, into: &bytes)
    case 1: bytes.writeParameter(7) { $0.writeBytes(script.flag() ? cookie : script.octets(atMost: 200)) }
    case 2: bytes.writeParameter(0x8002) { $0.writeRepeatingByte(3, count: script.flag() ? 32 : script.below(256)) }
    case 3: bytes.writeParameter(0x8003) { $0.writeBytes(script.flag() ? [10, 0xc1, 0x80] : script.octets(atMost: 20)) }
    case 4: bytes.writeParameter(0x8004) { $0.writeInteger(script.flag() ? 3 : script.half()) }
    case 5:
      bytes.writeParameter(0x8008) { $0.writeBytes(script.flag() ? [15, 64, 0x82, 192, 194, 0xc1, 0x80] : script.octets(atMost: 20)) }
    case 6: bytes.writeParameter(0xc000) { _ in }
    default: bytes.writeParameter(script.half()) { $0.writeBytes(script.octets(atMost: 30)) }
    }
  }

  private static func addressRequest(_ script: inout Script, into bytes: inout ByteBuffer) {
    let type = script.byte() < 240 ? [0xc001, 0xc002, 0xc004][script.below(3)] as UInt16 : script.half()
    let correlation = script.word()
    bytes.writeParameter(type) {
      $0.writeInteger(correlation)
      Self.address(&script, into: &$0)
    }
  }

  private static func address(_ script: inout Script, into bytes: inout ByteBuffer) {
    let choice = script.byte()
    if choice < 200 { return bytes.writeParameter(5) { $0.writeInteger(UInt32(0x0a01_0000) | UInt32(choice % 24)) } }
    if choice < 240 { return bytes.writeParameter(6) { $0.writeRepeatingByte(choice & 1, count: 16) } }
    bytes.writeParameter(script.half()) { $0.writeBytes(script.octets(atMost: 20)) }
  }

  private static func anyParameter(_ types: [UInt16], _ script: inout Script, into bytes: inout ByteBuffer) {
    let type = script.byte() < 200 ? types[script.below(types.count)] : script.half()
    bytes.writeParameter(type) { $0.writeBytes(script.octets(atMost: 24)) }
  }
}

extension ByteBuffer {
  /// - Parameter lie: how much more than the truth the length says.
  fileprivate mutating func writeChunk(_ type: UInt8, _ flags: UInt8, lie: UInt8 = 0, _ write: (inout ByteBuffer) -> Void = { _ in }) {
    let start = writerIndex
    writeInteger(type)
    writeInteger(flags)
    writeInteger(UInt16(0))
    write(&self)
    let length = writerIndex - start
    setInteger(UInt16(truncatingIfNeeded: length + Int(lie)), at: start + 2)
    writeRepeatingByte(0, count: -length & 3)
  }

  fileprivate mutating func writeParameter(_ type: UInt16, _ write: (inout ByteBuffer) -> Void) {
    let start = writerIndex
    writeInteger(type)
    writeInteger(UInt16(0))
    write(&self)
    let length = writerIndex - start
    setInteger(UInt16(truncatingIfNeeded: length), at: start + 2)
    writeRepeatingByte(0, count: -length & 3)
  }

  mutating func writeChecksum() {
    setInteger(UInt32(0), at: readerIndex + 8)
    let sums = Checksum.both(Array(readableBytesView))
    setInteger(sums.hardware ?? sums.tables, at: readerIndex + 8, endianness: .little)
  }
}
