import Dedup
import NIOCore
import Vocabulary

/// Where the chunks are that have gone by: shared by all flows, both directions, all event loops, and all peers.
///
/// Nothing of it blocks an event loop. What it gives out is what was put in under that name, or nothing: a damaged, truncated or lost chunk reads as absent.
/// Each chunk has with it which peers are believed to have it too (`PeerSlot`); a belief that is wrong costs a MISSING, never data.
package protocol ChunkStore: Sendable {
  /// Tells one life of this store from another: a peer that meets another number forgets what it believed. Kept over restarts of a store on disk.
  var identity: UInt64 { get }
  /// The slot of a peer's store; at most `PeerSlot.count`, the one that was longest unused gives way and what was believed of it is forgotten.
  func slot(of peer: NodeID, store: UInt64) -> PeerSlot
  func contains(_ name: ChunkName) -> Bool
  /// True if the peer is believed to have the chunk, which is here, or of which this store has the name alone (`believe`). Counts as a use.
  func isShared(_ name: ChunkName, with peer: PeerSlot) -> Bool
  /// The peer has said that it lacks the chunk.
  func forget(_ name: ChunkName, of peer: PeerSlot)
  /// Remembers a chunk that this peer has too (nil: no peer is known to have it). Copies the octets; takes nothing, and says so in its figures, when the disk does not follow.
  func put(_ name: ChunkName, _ bytes: ByteBuffer, sharedWith peer: PeerSlot?)
  /// The chunk if it can be had without waiting for a disk; counts as a use. Nil: try `fetch`.
  func take(_ name: ChunkName) -> ByteBuffer?
  /// Calls back on the loop, never before this call has returned, with the verified octets or nil where the chunk is absent or damaged.
  func fetch(_ name: ChunkName, on loop: any EventLoop, then: @escaping @Sendable (ByteBuffer?) -> Void)
  /// Chunk names, most recently used first: for filling a peer's store ahead of a move. At most `limit`.
  func recent(_ limit: Int) -> [ChunkReference]
  /// Another accelerator says what this peer has, which may or may not be here. What the peer itself has said counts for more: of a peer that is known with another store, or for
  /// whom no slot is free, nothing is believed.
  func believe(_ belief: PeerBelief)
  /// Which peers are believed to have which of these chunks of this store.
  func beliefs(about names: [ChunkName]) -> [PeerBelief]
  var figures: ChunkStoreFigures { get }
  /// Once, when nobody puts any more.
  func close() async
}

extension ChunkStore {
  /// What is in memory only is gone with the program.
  package func close() async {}
}

/// One peer in the store's beliefs.
package struct PeerSlot: Hashable, Sendable {
  package static let count = 16
  package let index: UInt8
  package init(index: UInt8) { self.index = index }
}

/// What a store holds, and what has happened since it was opened.
package struct ChunkStoreFigures: Sendable, Hashable {
  package var chunks = 0
  package var octets = 0
  package var hits = 0
  package var misses = 0
  /// Not taken: the disk did not follow, or is full.
  package var dropped = 0
  package var evicted = 0
  /// Found damaged and forgotten.
  package var damaged = 0
  package init() {}
}
