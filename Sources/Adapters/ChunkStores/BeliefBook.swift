import Dedup
import Synchronization

/// What peers are believed to have that is not here: names alone, as another accelerator has passed them on. A sender needs no more: it has the octets from its application,
/// and a peer that has them needs the name. A belief that is wrong, or lost since others took its place, costs octets and time, never data.
final class BeliefBook: Sendable {
  /// Names: 8 GiB of chunks in 24 MiB of memory, taken as they come.
  static let capacity = 1 << 20
  private static let shardCount = 16

  private final class Shard: Sendable {
    let contents = Mutex(BeliefShard())
  }

  private let shards = (0..<BeliefBook.shardCount).map { _ in Shard() }
  /// Most accelerators never learn any: then nobody looks here.
  private let hasAny = Atomic(false)

  func add(_ name: ChunkName, bit: UInt16) {
    hasAny.store(true, ordering: .relaxed)
    with(name) { $0.add(name, bit: bit) }
  }

  func isShared(_ name: ChunkName, with bit: UInt16) -> Bool {
    hasAny.load(ordering: .relaxed) && with(name) { $0.peers(of: name) & bit != 0 }
  }

  func forget(_ name: ChunkName, of bit: UInt16) {
    if hasAny.load(ordering: .relaxed) { with(name) { $0.forget(name, of: bit) } }
  }

  func forget(all bit: UInt16) {
    if hasAny.load(ordering: .relaxed) { for shard in shards { shard.contents.withLock { $0.forget(all: bit) } } }
  }

  private func with<Result>(_ name: ChunkName, _ body: (inout BeliefShard) -> Result) -> Result {
    shards[Int(name.high >> 60)].contents.withLock { body(&$0) }
  }
}

/// One part: buckets of eight names. A bucket that is full makes the part twice as large, up to its bound; then the next in turn gives way.
struct BeliefShard {
  private struct Belief {
    var name: ChunkName
    /// 0: nobody is here.
    var peers: UInt16
  }

  private static let ways = 8
  private static let smallest = 1_024
  private static let largest = BeliefBook.capacity / 16

  private var beliefs: [Belief] = []
  private var turn = 0

  func peers(of name: ChunkName) -> UInt16 { find(name).map { beliefs[$0].peers } ?? 0 }

  mutating func add(_ name: ChunkName, bit: UInt16) {
    if let place = find(name) {
      beliefs[place].peers |= bit
      return
    }
    if beliefs.isEmpty { resize(BeliefShard.smallest) }
    while true {
      if let place = bucket(of: name).first(where: { beliefs[$0].peers == 0 }) {
        beliefs[place] = Belief(name: name, peers: bit)
        return
      }
      guard beliefs.count < BeliefShard.largest else { break }
      resize(beliefs.count * 2)
    }
    turn = (turn + 1) % BeliefShard.ways
    beliefs[bucket(of: name).lowerBound + turn] = Belief(name: name, peers: bit)
  }

  mutating func forget(_ name: ChunkName, of bit: UInt16) {
    if let place = find(name) { beliefs[place].peers &= ~bit }
  }

  mutating func forget(all bit: UInt16) {
    for place in beliefs.indices { beliefs[place].peers &= ~bit }
  }

  private func bucket(of name: ChunkName) -> Range<Int> {
    let start = Int(truncatingIfNeeded: name.middle) & (beliefs.count - 1) & ~(BeliefShard.ways - 1)
    return start..<(start + BeliefShard.ways)
  }

  private func find(_ name: ChunkName) -> Int? {
    guard !beliefs.isEmpty else { return nil }
    return bucket(of: name).first { beliefs[$0].peers != 0 && beliefs[$0].name == name }
  }

  /// Twice as many buckets: each one's names fit into the two that it becomes.
  private mutating func resize(_ count: Int) {
    let old = beliefs
    beliefs = Array(repeating: Belief(name: ChunkName(high: 0, middle: 0, low: 0), peers: 0), count: count)
    for belief in old where belief.peers != 0 {
      if let place = bucket(of: belief.name).first(where: { beliefs[$0].peers == 0 }) { beliefs[place] = belief }
    }
  }
}
