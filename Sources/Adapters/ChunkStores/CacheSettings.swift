import Logging
import Vocabulary

/// Where the byte cache is, and how large.
package enum CacheSettings: Sendable, Hashable {
  case none
  /// Gone with the program.
  case memory(ByteCount)
  case folder(String, ByteCount)

  /// Of an accelerator: 256 MiB is what a small machine can spare, and 50 MB five times over.
  package static let defaultMemory = ByteCount.mebibytes(256)
  /// Of a client: a page of a desk application that is loaded again, and 50 MB once.
  package static let clientMemory = ByteCount.mebibytes(64)
  /// Of an agent: a quarter of the smallest guest.
  package static let agentMemory = ByteCount.mebibytes(32)
  /// 10 GiB: a day at 1 Mbit/s, and two disk images; its index takes 80 MB of memory.
  package static let defaultFolder = ByteCount.mebibytes(10 << 10)
  /// Two of the largest chunks.
  package static let smallest = ByteCount.kibibytes(64)

  package static let sizeForm = "a size of at least 64K, for instance 512M or 20G"

  /// Nil for what is no size, and for one that is too small.
  package static func size(_ text: String) -> ByteCount? { ByteCount(text).flatMap { $0 < smallest ? nil : $0 } }

  /// The usual size where none is given; `memory` is that of a cache in memory.
  package init(folder: String?, size: ByteCount?, memory: ByteCount = CacheSettings.defaultMemory) {
    if let folder {
      self = .folder(folder, size ?? CacheSettings.defaultFolder)
    } else {
      self = .memory(size ?? memory)
    }
  }

  package func open(logger: Logger) throws -> (any ChunkStore)? {
    switch self {
    case .none: nil
    case .memory(let size): MemoryChunkStore(capacity: size.octets)
    case .folder(let folder, let size): try DiskChunkStore(folder: folder, capacity: size.octets, logger: logger)
    }
  }
}
