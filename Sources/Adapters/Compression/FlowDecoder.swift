import NIOCore

/// One direction of one flow, the receiving end.
package struct FlowDecoder: ~Copyable {
  private var decompressor: ZstdDecompressor?

  package init() {}

  /// What a compressed batch stands for: at most `limit` octets, in storage of about its own size.
  package mutating func decode(_ packed: ByteBuffer, atMost limit: Int) throws(DecompressionError) -> ByteBuffer {
    if decompressor == nil { decompressor = ZstdDecompressor() }
    guard decompressor != nil else { throw .corrupt("no memory for a decompressor") }
    var output = ByteBufferAllocator().buffer(capacity: limit + 1)
    var isOver = false
    if let over = try decompressor?.decompress(packed, into: &output, atMost: limit) { isOver = over }
    if isOver { decompressor = nil }
    return output.withoutSpare()
  }

  package var holdsContext: Bool { decompressor != nil }
}

extension ByteBuffer {
  /// The same octets; copied if they would keep more than four times their size of memory alive while they wait for a slow receiver.
  package func withoutSpare() -> ByteBuffer {
    guard storageCapacity > 4 * readableBytes + 256 else { return self }
    var copy = ByteBufferAllocator().buffer(capacity: readableBytes)
    copy.writeImmutableBuffer(self)
    return copy
  }
}
