import NIOCore
import SCTP
import Vocabulary

/// One chunk of a packet, read without the engine's help.
struct RawChunk {
  var type: UInt8
  var flags: UInt8
  var value: ByteBuffer

  init(_ type: UInt8, flags: UInt8 = 0, _ write: (inout ByteBuffer) -> Void = { _ in }) {
    self.type = type
    self.flags = flags
    value = ByteBuffer()
    write(&value)
  }

  func integer<Value: FixedWidthInteger>(at offset: Int, as type: Value.Type = Value.self) -> Value? {
    value.getInteger(at: value.readerIndex + offset, as: type)
  }
}

func rawChunks(_ packet: ByteBuffer) -> [RawChunk] {
  var rest = packet
  rest.moveReaderIndex(forwardBy: 12)
  var chunks: [RawChunk] = []
  while let type = rest.readInteger(as: UInt8.self), let flags = rest.readInteger(as: UInt8.self),
    let length = rest.readInteger(as: UInt16.self), length >= 4, let value = rest.readSlice(length: Int(length) - 4)
  {
    chunks.append(RawChunk(type, flags: flags) { $0.writeImmutableBuffer(value) })
    rest.moveReaderIndex(forwardBy: min(-Int(length) & 3, rest.readableBytes))
  }
  return chunks
}

/// A packet with the ports and the tag of another one, its checksum right.
func rawPacket(like packet: ByteBuffer, _ chunks: [RawChunk]) -> ByteBuffer {
  var bytes = packet.getSlice(at: packet.readerIndex, length: 12)!
  for chunk in chunks {
    bytes.writeInteger(chunk.type)
    bytes.writeInteger(chunk.flags)
    bytes.writeInteger(UInt16(4 + chunk.value.readableBytes))
    bytes.writeImmutableBuffer(chunk.value)
    bytes.writeRepeatingByte(0, count: -chunk.value.readableBytes & 3)
  }
  return rechecksummed(bytes)
}

extension ByteBuffer {
  /// A parameter, or an error cause.
  mutating func writeRawParameter(_ type: UInt16, _ write: (inout ByteBuffer) -> Void) {
    var value = ByteBuffer()
    write(&value)
    writeInteger(type)
    writeInteger(UInt16(4 + value.readableBytes))
    writeImmutableBuffer(value)
    writeRepeatingByte(0, count: -value.readableBytes & 3)
  }
}
