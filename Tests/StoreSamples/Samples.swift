import Dedup
import NIOCore
import Vocabulary

/// Chunks that follow from their number: names look random, and no two have the same octets.
package struct Sample {
  package let name: ChunkName
  package let bytes: ByteBuffer

  package init(_ number: Int, octets: Int? = nil) {
    var generator = SeededGenerator(seed: UInt64(number) &* 0x1234_5678_9abc_def1)
    name = ChunkName(high: generator.next(), middle: generator.next(), low: UInt32(truncatingIfNeeded: generator.next()))
    let count = octets ?? Int.random(in: 2048...16384, using: &generator)
    var bytes = ByteBuffer()
    bytes.reserveCapacity(count + 8)
    while bytes.readableBytes < count { bytes.writeInteger(generator.next()) }
    self.bytes = bytes.getSlice(at: 0, length: count) ?? bytes
  }
}
