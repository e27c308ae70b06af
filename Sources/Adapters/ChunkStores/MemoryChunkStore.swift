import Dedup
import NIOCore
import Synchronization
import Vocabulary

/// Chunks in memory: what an accelerator has that was given no folder, and the double in tests. Nothing of it outlives the program.
///
/// Locks stand here, on a path of relayed octets, because all event loops share the store and a chunk may be asked for by any of them. They are held for a look-up or
/// for one insertion with its evictions (under a microsecond; octets are copied outside), and names are random, so that 16 shards are seldom asked for at once.
package final class MemoryChunkStore: ChunkStore {
  /// Loops, about one a core, that meet in 16 shards: two of four ask for the same one in a third of all moments when all four ask at once.
  private static let shards = 16
  /// A shard holds a handful of the largest chunks, or fewer shards are made.
  private static let smallestShard = 8 * ChunkLimits.maximum

  package let identity: UInt64
  private let slots = Mutex(PeerSlots())
  private let shards: [Shard]
  private let elsewhere = BeliefBook()

  /// One of the parts, each with its lock: an array of locks needs a class about each.
  private final class Shard: Sendable {
    let contents: Mutex<MemoryShard>
    init(capacity: Int) { contents = Mutex(MemoryShard(capacity: capacity)) }
  }

  /// - Parameters:
  ///   - capacity: octets of memory that chunks take, with what the store needs beside each.
  ///   - identity: another one in every life of the program: a system generator's number.
  package init(capacity: Int, identity: UInt64 = .random(in: 1 ... .max)) {
    self.identity = identity
    var count = MemoryChunkStore.shards
    while count > 1, capacity / count < MemoryChunkStore.smallestShard { count /= 2 }
    shards = (0..<count).map { _ in Shard(capacity: capacity / count) }
  }

  private func shard(of name: ChunkName) -> Shard { shards[Int(name.high >> 60) & (shards.count - 1)] }

  package func slot(of peer: NodeID, store: UInt64) -> PeerSlot {
    // Held while the beliefs are cleared: a second loop that asks for the slot finds it ready. 1 GiB has 8,000 chunks a shard, which is some 10 us each.
    slots.withLock { slots in
      let (slot, isNew) = slots.slot(of: peer, store: store)
      guard isNew else { return slot }
      for shard in shards { shard.contents.withLock { $0.forget(all: slot) } }
      elsewhere.forget(all: slot.bit)
      return slot
    }
  }

  package func contains(_ name: ChunkName) -> Bool { shard(of: name).contents.withLock { $0.contains(name) } }

  package func isShared(_ name: ChunkName, with peer: PeerSlot) -> Bool {
    shard(of: name).contents.withLock { $0.isShared(name, with: peer) } || elsewhere.isShared(name, with: peer.bit)
  }

  package func forget(_ name: ChunkName, of peer: PeerSlot) {
    shard(of: name).contents.withLock { $0.forget(name, of: peer) }
    elsewhere.forget(name, of: peer.bit)
  }

  package func believe(_ belief: PeerBelief) {
    // A slot that was free has no bits.
    guard let (peer, _) = slots.withLock({ $0.slot(byHearsayOf: belief.peer, store: belief.store) }) else { return }
    for name in belief.names where !shard(of: name).contents.withLock({ $0.believe(name, of: peer) }) { elsewhere.add(name, bit: peer.bit) }
  }

  package func beliefs(about names: [ChunkName]) -> [PeerBelief] {
    let slots = slots.withLock { $0 }
    return slots.beliefs(about: names) { name in shard(of: name).contents.withLock { $0.peers(of: name) } }
  }

  package func put(_ name: ChunkName, _ bytes: ByteBuffer, sharedWith peer: PeerSlot?) {
    let shard = shard(of: name)
    guard (1...ChunkLimits.maximum).contains(bytes.readableBytes) else { return }
    if shard.contents.withLock({ $0.note(name, sharedWith: peer) }) { return }
    // An array has the size that it needs; a ByteBuffer takes the next power of two, and one that came from a socket holds all that it was read with.
    let copy = Array(bytes.readableBytesView)
    shard.contents.withLock { $0.insert(name, copy, sharedWith: peer) }
  }

  package func take(_ name: ChunkName) -> ByteBuffer? {
    shard(of: name).contents.withLock { $0.take(name) }.map { ByteBuffer(bytes: $0) }
  }

  package func fetch(_ name: ChunkName, on loop: any EventLoop, then: @escaping @Sendable (ByteBuffer?) -> Void) {
    loop.execute { then(self.take(name)) }
  }

  package func recent(_ limit: Int) -> [ChunkReference] {
    // Names are random: the shards' orders, one of each in turn, are nearly the order of all.
    .interleaved(shards.map { shard in shard.contents.withLock { $0.recent(limit / shards.count + 1) } }, limit: limit)
  }

  package var figures: ChunkStoreFigures {
    shards.reduce(into: ChunkStoreFigures()) { sum, shard in sum.add(shard.contents.withLock { $0.figures }) }
  }
}
