import ChunkStores
import Dedup
import NIOCore
import Synchronization
import TestSupport
import Vocabulary

/// A store in which another chunk stands under each name, as if somebody had forged the names, once it has been told to lie.
final class ForgedStore: ChunkStore {
  private let inner: MemoryChunkStore
  private let isLying = Mutex(false)

  init(capacity: Int) { inner = MemoryChunkStore(capacity: capacity) }

  func lie() { isLying.withLock { $0 = true } }

  private func forged(_ bytes: ByteBuffer?) -> ByteBuffer? {
    guard var bytes, isLying.withLock({ $0 }), let first = bytes.getInteger(at: bytes.readerIndex, as: UInt8.self) else { return bytes }
    bytes.setInteger(first ^ 1, at: bytes.readerIndex)
    return bytes
  }

  var identity: UInt64 { inner.identity }
  func slot(of peer: NodeID, store: UInt64) -> PeerSlot { inner.slot(of: peer, store: store) }
  func contains(_ name: ChunkName) -> Bool { inner.contains(name) }
  func isShared(_ name: ChunkName, with peer: PeerSlot) -> Bool { inner.isShared(name, with: peer) }
  func forget(_ name: ChunkName, of peer: PeerSlot) { inner.forget(name, of: peer) }
  func put(_ name: ChunkName, _ bytes: ByteBuffer, sharedWith peer: PeerSlot?) { inner.put(name, bytes, sharedWith: peer) }
  func take(_ name: ChunkName) -> ByteBuffer? { forged(inner.take(name)) }
  func fetch(_ name: ChunkName, on loop: any EventLoop, then: @escaping @Sendable (ByteBuffer?) -> Void) {
    inner.fetch(name, on: loop) { then(self.forged($0)) }
  }
  func recent(_ limit: Int) -> [ChunkReference] { inner.recent(limit) }
  func believe(_ belief: PeerBelief) { inner.believe(belief) }
  func beliefs(about names: [ChunkName]) -> [PeerBelief] { inner.beliefs(about: names) }
  var figures: ChunkStoreFigures { inner.figures }
}

/// A store that forgets chunks at moments that a seed decides, between being asked whether it has one and being asked for it, too.
final class ForgetfulStore: ChunkStore {
  private let inner: Mutex<MemoryChunkStore>
  private let random: Mutex<SeededGenerator>
  private let capacity: Int
  private let forgets: Double
  let identity: UInt64

  init(capacity: Int, seed: UInt64, forgets: Double = 0) {
    inner = Mutex(MemoryChunkStore(capacity: capacity, identity: seed))
    random = Mutex(SeededGenerator(seed: seed))
    self.capacity = capacity
    self.forgets = forgets
    identity = seed
  }

  private var store: MemoryChunkStore { inner.withLock { $0 } }
  private var isForgotten: Bool { random.withLock { Double.random(in: 0..<1, using: &$0) < forgets } }

  /// Everything is gone, and nobody is told.
  func lose() { inner.withLock { $0 = MemoryChunkStore(capacity: capacity, identity: identity) } }

  func slot(of peer: NodeID, store: UInt64) -> PeerSlot { self.store.slot(of: peer, store: store) }
  func contains(_ name: ChunkName) -> Bool { !isForgotten && store.contains(name) }
  func isShared(_ name: ChunkName, with peer: PeerSlot) -> Bool { store.isShared(name, with: peer) }
  func forget(_ name: ChunkName, of peer: PeerSlot) { store.forget(name, of: peer) }
  func put(_ name: ChunkName, _ bytes: ByteBuffer, sharedWith peer: PeerSlot?) { store.put(name, bytes, sharedWith: peer) }
  /// Half of what is there must be fetched, as from a disk.
  func take(_ name: ChunkName) -> ByteBuffer? { random.withLock { Bool.random(using: &$0) } ? nil : store.take(name) }
  func fetch(_ name: ChunkName, on loop: any EventLoop, then: @escaping @Sendable (ByteBuffer?) -> Void) {
    if isForgotten { loop.execute { then(nil) } } else { store.fetch(name, on: loop, then: then) }
  }
  func recent(_ limit: Int) -> [ChunkReference] { store.recent(limit) }
  func believe(_ belief: PeerBelief) { store.believe(belief) }
  func beliefs(about names: [ChunkName]) -> [PeerBelief] { store.beliefs(about: names) }
  var figures: ChunkStoreFigures { store.figures }
}
