import Dedup
import NIOCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

extension DiskChunkStore {
  /// The chunk that stands there, verified. Nil: it would have to be waited for, or it is not there; then it is forgotten.
  func read(_ name: ChunkName, at place: Place, octets: Int, waiting: Bool) -> ByteBuffer? {
    let length = Record.header + octets
    // Evicted since it was looked up.
    guard let file = segments.file(place.segment) else { return lose(name, at: place) }
    var buffer = ByteBufferAllocator().buffer(capacity: length)
    var code: Int32 = 0
    var isAuthentic = false
    let count = buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: length) { memory in
      let memory = UnsafeMutableRawBufferPointer(rebasing: memory[..<length])
      let count = file.read(into: memory, at: Int(place.offset), waiting: waiting, residence: residence)
      code = errno
      isAuthentic = count == length && folder.key.isAuthentic(UnsafeRawBufferPointer(memory), name: name, octets: octets, at: place)
      return max(count, 0)
    }
    if isAuthentic {
      buffer.moveReaderIndex(forwardBy: Record.header)
      return buffer
    }
    if count == 0, code == EAGAIN {
      index.with(name) { $0.uncountHit(isMiss: false) }
      return nil
    }
    // Not written after all: the disk was full.
    if Int(place.offset) + length > segments.octets(of: place.segment) { return lose(name, at: place) }
    noteDamage(name, at: place, why: count == length ? "a chunk is not what was written" : "\(String(cString: strerror(code)))")
    return lose(name, at: place)
  }

  private func lose(_ name: ChunkName, at place: Place) -> ByteBuffer? {
    index.with(name) { shard in
      shard.remove(name, at: place)
      shard.uncountHit(isMiss: true)
    }
    return nil
  }

  func noteDamage(_ name: ChunkName, at place: Place, why: String) {
    damaged.add(1, ordering: .relaxed)
    guard pace.admits("damage in \(place.segment)") else { return }
    logger.warning(
      "the byte cache is damaged: \(why); the chunk is forgotten and will come over the network again",
      metadata: ["file": "\(folder.segmentPath(place.segment))", "offset": "\(place.offset)"])
  }
}
