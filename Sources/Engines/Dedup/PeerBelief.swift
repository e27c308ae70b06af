import Vocabulary

/// What a peer's store is believed to have: kept beside the chunks, and passed on from one accelerator to another.
package struct PeerBelief: Hashable, Sendable {
  package var peer: NodeID
  package var store: UInt64
  package var names: [ChunkName]

  package init(peer: NodeID, store: UInt64, names: [ChunkName]) {
    self.peer = peer
    self.store = store
    self.names = names
  }
}
