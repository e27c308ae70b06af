import Dedup
import Synchronization

/// Where the chunks of a store on disk are: 16 parts with a lock each, for the reasons that `MemoryChunkStore` gives. Longer work goes page by page.
final class ChunkIndex: Sendable {
  private static let shardCount = 16

  private final class Shard: Sendable {
    let contents: Mutex<IndexShard>
    init(seed: UInt64) { contents = Mutex(IndexShard(seed: seed)) }
  }

  private let shards: [Shard]

  init() {
    let seed = UInt64.random(in: 0 ... .max)
    shards = (0..<ChunkIndex.shardCount).map { _ in Shard(seed: seed) }
  }

  /// The part that has this name, locked.
  func with<Result>(_ name: ChunkName, _ body: (inout IndexShard) -> Result) -> Result {
    shards[Int(name.high >> 60)].contents.withLock { body(&$0) }
  }

  /// Each part in turn, locked.
  func each<Result>(_ body: (inout IndexShard) -> Result) -> [Result] { shards.map { $0.contents.withLock { body(&$0) } } }

  var changes: Int { each { $0.changes }.reduce(0, +) }

  /// Forgets all that is believed of a peer; meanwhile chunks are found and put as ever.
  func forget(all bit: UInt16) {
    for shard in shards {
      var page = 0
      while shard.contents.withLock({ $0.forget(all: bit, onPage: page) }) { page += 1 }
    }
  }

  /// The live entries, some at a time; those that change meanwhile may or may not be among them.
  func forEachPage(_ body: ([IndexEntry]) throws -> Void) rethrows {
    for shard in shards {
      for page in 0..<shard.contents.withLock({ $0.pageCount }) { try body(shard.contents.withLock { $0.page(page) }) }
    }
  }

  /// Chunks of a segment that were used since they were written, the last used first as far as parts with clocks of their own can tell.
  func usedChunks(of segment: UInt32) -> [IndexEntry] {
    .interleaved(each { $0.usedChunks(of: segment) }, limit: .max)
  }

  /// As `ChunkStore.recent`.
  func recent(_ limit: Int) -> [ChunkReference] {
    .interleaved(each { $0.recent(limit / ChunkIndex.shardCount + 1) }, limit: limit)
  }

  var figures: ChunkStoreFigures {
    each { $0.figures }.reduce(into: ChunkStoreFigures()) { $0.add($1) }
  }
}

extension ChunkStoreFigures {
  mutating func add(_ part: ChunkStoreFigures) {
    chunks += part.chunks
    octets += part.octets
    hits += part.hits
    misses += part.misses
    dropped += part.dropped
    evicted += part.evicted
    damaged += part.damaged
  }
}

extension Array {
  /// One of each part in turn.
  static func interleaved(_ parts: [[Element]], limit: Int) -> [Element] {
    var mixed: [Element] = []
    for rank in 0..<(parts.map(\.count).max() ?? 0) {
      for part in parts where rank < part.count && mixed.count < limit { mixed.append(part[rank]) }
    }
    return mixed
  }
}
