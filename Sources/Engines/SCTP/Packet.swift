import NIOCore
import Vocabulary

/// The common header (RFC 9260 section 3.1).
package struct PacketHeader: Sendable, Hashable {
  static let length = 12

  var sourcePort: UInt16
  var destinationPort: UInt16
  var verificationTag: UInt32
}

package enum ChunkType: UInt8, Sendable {
  case data = 0
  case initiation = 1
  case initiationAck = 2
  case sack = 3
  case heartbeat = 4
  case heartbeatAck = 5
  case abort = 6
  case shutdown = 7
  case shutdownAck = 8
  case error = 9
  case cookieEcho = 10
  case cookieAck = 11
  /// ECNE and CWR.
  case congestionExperienced = 12
  case windowReduced = 13
  case shutdownComplete = 14
  case authentication = 15
  case interleavedData = 0x40
  case asconfAck = 0x80
  case reconfiguration = 0x82
  case padding = 0x84
  case forwardTSN = 0xc0
  case asconf = 0xc1
  case interleavedForwardTSN = 0xc2
}

/// One chunk as it stands in a packet.
struct Chunk {
  var type: UInt8
  var flags: UInt8
  var value: ByteBuffer
  /// Where the chunk begins, counted from the packet's first octet.
  var offset: Int

  var known: ChunkType? { ChunkType(rawValue: type) }
}

/// Why a packet is not one.
package enum PacketError: Error, Hashable, Sendable {
  case tooShort
  case wrongChecksum
  case truncatedChunk(type: UInt8)
  case noChunk
  /// A chunk's own fields do not fit its length.
  case malformedChunk(type: UInt8)
}

/// A packet that has been cut into chunks, its checksum found right.
struct Packet {
  var header: PacketHeader
  var chunks: [Chunk]
  var bytes: ByteBuffer

  /// More chunks than this in a packet of 65,535 octets are of no use to anybody: 4 octets each would be 16,380.
  static let maximumChunks = 4_096

  init(_ bytes: ByteBuffer) throws(PacketError) {
    self.bytes = bytes
    var rest = bytes
    guard bytes.readableBytes >= PacketHeader.length, let source = rest.readInteger(as: UInt16.self),
      let destination = rest.readInteger(as: UInt16.self),
      let tag = rest.readInteger(as: UInt32.self), let checksum = rest.readInteger(endianness: .little, as: UInt32.self)
    else { throw .tooShort }
    guard checksum == Checksum.compute(bytes) else { throw .wrongChecksum }
    header = PacketHeader(sourcePort: source, destinationPort: destination, verificationTag: tag)
    chunks = []
    while rest.readableBytes > 0 {
      let offset = bytes.readableBytes - rest.readableBytes
      guard let type = rest.readInteger(as: UInt8.self), let flags = rest.readInteger(as: UInt8.self),
        let length = rest.readInteger(as: UInt16.self),
        length >= 4, let value = rest.readSlice(length: Int(length) - 4), chunks.count < Packet.maximumChunks
      else { throw .truncatedChunk(type: rest.readableBytes > 0 ? bytes.getInteger(at: bytes.readerIndex + offset) ?? 0 : 0) }
      chunks.append(Chunk(type: type, flags: flags, value: value, offset: offset))
      // Padding to a multiple of four; the last chunk's may be missing (RFC 9260 section 3.2: a receiver accepts it).
      rest.moveReaderIndex(forwardBy: min(padding(Int(length)), rest.readableBytes))
    }
    guard !chunks.isEmpty else { throw .noChunk }
  }
}

/// Octets of padding behind so many.
func padding(_ length: Int) -> Int { -length & 3 }

/// Puts a packet together. The checksum is written by `finish`.
struct PacketBuilder {
  private(set) var bytes: ByteBuffer
  /// Where the AUTH chunk begins, if it has one: its code covers everything from there on (RFC 4895 section 6.2).
  private(set) var authenticationOffset: Int?
  private(set) var algorithm = HMACAlgorithm.sha256

  init(_ header: PacketHeader, capacity: Int = 512) {
    bytes = ByteBufferAllocator().buffer(capacity: capacity)
    bytes.writeInteger(header.sourcePort)
    bytes.writeInteger(header.destinationPort)
    bytes.writeInteger(header.verificationTag)
    bytes.writeInteger(UInt32(0))
  }

  var length: Int { bytes.readableBytes }
  var isEmpty: Bool { length == PacketHeader.length }
  /// Nothing stands in it yet that is worth sending.
  var isBare: Bool { length == PacketHeader.length + (authenticationOffset == nil ? 0 : algorithm.chunkLength) }

  /// Appends a chunk, padded; `write` writes its value.
  mutating func append(_ type: ChunkType, flags: UInt8 = 0, _ write: (inout ByteBuffer) -> Void = { _ in }) {
    let start = bytes.writerIndex
    bytes.writeInteger(type.rawValue)
    bytes.writeInteger(flags)
    bytes.writeInteger(UInt16(0))
    write(&bytes)
    let length = bytes.writerIndex - start
    bytes.setInteger(UInt16(length), at: start + 2)
    bytes.writeRepeatingByte(0, count: padding(length))
  }

  /// Appends an AUTH chunk whose code is filled in by `finish`: everything behind it is covered.
  mutating func appendAuthentication(_ algorithm: HMACAlgorithm, keyIdentifier: UInt16) {
    self.algorithm = algorithm
    authenticationOffset = length
    append(.authentication) { bytes in
      bytes.writeInteger(keyIdentifier)
      bytes.writeInteger(algorithm.rawValue)
      bytes.writeRepeatingByte(0, count: algorithm.codeLength)
    }
  }

  /// Fills in the AUTH code, if there is one, and the checksum.
  consuming func finish(authenticate: (ByteBuffer) -> [UInt8] = { _ in preconditionFailure("an AUTH chunk needs a key") }) -> ByteBuffer {
    if let offset = authenticationOffset, let covered = bytes.getSlice(at: bytes.readerIndex + offset, length: length - offset) {
      bytes.setBytes(authenticate(covered), at: bytes.readerIndex + offset + Authentication.codeOffset)
    }
    bytes.setInteger(Checksum.compute(bytes), at: bytes.readerIndex + Checksum.fieldOffset, endianness: .little)
    return bytes
  }
}
