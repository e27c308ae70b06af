import NIOCore
import SCTP
import Vocabulary

/// Whoever has an association's endpoint key and has heard its handshake: it can sign whatever it likes. Reads the handshake by itself, so that the key is derived twice.
struct Forger {
  /// Tags that A and Z want to see.
  let tagOfA: UInt32
  let tagOfZ: UInt32
  /// The TSNs that A and Z begin with; ASCONF begins with the same number (RFC 5061 section 5.1).
  let firstOfA: UInt32
  let firstOfZ: UInt32
  private let key: [UInt8]

  /// - Parameter trace: packets from the first on: INIT and INIT ACK.
  init(_ trace: [ByteBuffer], endpointKey: String = "the same key on both sides") {
    let parts = trace.prefix(2).map(Self.initiation)
    (tagOfA, firstOfA) = (parts[0].tag, parts[0].tsn)
    (tagOfZ, firstOfZ) = (parts[1].tag, parts[1].tsn)
    // RFC 4895 section 6.1: the smaller vector first, as a number; ours all have one length.
    let vectors = parts.map(\.vector).sorted { $0.lexicographicallyPrecedes($1) }
    key = Array(endpointKey.utf8) + vectors[0] + vectors[1]
  }

  private static func initiation(_ packet: ByteBuffer) -> (tag: UInt32, tsn: UInt32, vector: [UInt8]) {
    var rest = packet
    rest.moveReaderIndex(forwardBy: 16)
    let tag = rest.readInteger(as: UInt32.self)!
    rest.moveReaderIndex(forwardBy: 8)
    let tsn = rest.readInteger(as: UInt32.self)!
    var found: [UInt16: [UInt8]] = [:]
    while let type = rest.readInteger(as: UInt16.self), let length = rest.readInteger(as: UInt16.self), length >= 4,
      let value = rest.readBytes(length: Int(length) - 4)
    {
      var whole = ByteBuffer(integer: type)
      whole.writeInteger(length)
      whole.writeBytes(value)
      found[type] = Array(whole.readableBytesView)
      rest.moveReaderIndex(forwardBy: min(-Int(length) & 3, rest.readableBytes))
    }
    return (tag, tsn, [0x8002, 0x8003, 0x8004].flatMap { found[$0] ?? [] })
  }

  // MARK: Packets

  enum Signature { case right, wrong, none, ofAnotherKey, ofAnUnknownAlgorithm }

  func packet(tag: UInt32, _ signature: Signature = .none, _ chunks: [UInt8]...) -> ByteBuffer {
    var bytes = ByteBuffer(integer: UInt16(7_600))
    bytes.writeInteger(UInt16(7_600))
    bytes.writeInteger(tag)
    bytes.writeInteger(UInt32(0))
    if signature != .none {
      let body = [0, signature == .ofAnotherKey ? 1 : 0, 0, signature == .ofAnUnknownAlgorithm ? 9 : 3] as [UInt8]
      bytes.writeBytes(Self.chunk(15, body + [UInt8](repeating: 0, count: 32)))
    }
    for chunk in chunks { bytes.writeBytes(chunk) }
    if signature != .none {
      let covered = bytes.getSlice(at: 12, length: bytes.readableBytes - 12)!
      let secret = signature == .wrong ? key + [1] : key
      bytes.setBytes(TestAuthenticator().authenticationCode(key: secret, [covered]), at: 20)
    }
    return rechecksummed(bytes)
  }

  static func chunk(_ type: UInt8, flags: UInt8 = 0, _ value: [UInt8]) -> [UInt8] {
    [type, flags] + octets(UInt16(4 + value.count)) + value + [UInt8](repeating: 0, count: -value.count & 3)
  }

  static func octets(_ value: some FixedWidthInteger) -> [UInt8] { withUnsafeBytes(of: value.bigEndian) { Array($0) } }

  static func parameter(_ type: UInt16, _ value: [UInt8]) -> [UInt8] {
    octets(type) + octets(UInt16(4 + value.count)) + value + [UInt8](repeating: 0, count: -value.count & 3)
  }

  static func address(_ address: IPAddress) -> [UInt8] {
    switch address {
    case .v4(let value): parameter(5, octets(value))
    case .v6(let high, let low): parameter(6, octets(high) + octets(low))
    }
  }

  enum Request: UInt16 { case add = 0xc001, delete = 0xc002, setPrimary = 0xc004 }

  static func asconf(_ serial: UInt32, _ requests: (Request, IPAddress)...) -> [UInt8] {
    var value = octets(serial) + address(Duo.a1)
    for (number, (request, subject)) in requests.enumerated() {
      value += parameter(request.rawValue, octets(UInt32(number + 1)) + address(subject))
    }
    return chunk(0xc1, value)
  }

  /// DATA; flags: U 4, B 2, E 1.
  static func data(_ tsn: UInt32, stream: UInt16 = 0, sequence: UInt16 = 0, flags: UInt8 = 3, _ payload: [UInt8] = [7]) -> [UInt8] {
    chunk(0, flags: flags, octets(tsn) + octets(stream) + octets(sequence) + octets(UInt32(1)) + payload)
  }

  static func sack(_ cumulative: UInt32, window: UInt32 = 1 << 20, gaps: [(UInt16, UInt16)] = []) -> [UInt8] {
    chunk(
      3, octets(cumulative) + octets(window) + octets(UInt16(gaps.count)) + octets(UInt16(0)) + gaps.flatMap { octets($0.0) + octets($0.1) }
    )
  }
}
