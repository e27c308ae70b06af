import ChunkStores
import Logging
import Vocabulary

/// Where the byte cache is, and how large.
package enum CacheSettings: Sendable, Hashable {
  case none
  /// Gone with the program.
  case memory(ByteCount)
  case folder(String, ByteCount)

  /// 256 MiB: what a small machine can spare, and 50 MB five times over.
  package static let defaultMemory = ByteCount.mebibytes(256)
  /// 10 GiB: a day at 1 Mbit/s, and two disk images; its index takes 80 MB of memory.
  package static let defaultFolder = ByteCount.mebibytes(10 << 10)
  /// Two of the largest chunks.
  package static let smallest = ByteCount.kibibytes(64)

  func open(logger: Logger) throws -> (any ChunkStore)? {
    switch self {
    case .none: nil
    case .memory(let size): MemoryChunkStore(capacity: size.octets)
    case .folder(_, let size): MemoryChunkStore(capacity: min(size.octets, 1 << 30))
    }
  }
}
