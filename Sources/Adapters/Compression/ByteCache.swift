import ChunkStores
import Crypto
import Dedup
import NIOCore

/// The byte cache as one flow sees it: the store that all flows share, the peer at the other end, and the names of the flow's tenant.
package struct ByteCache: Sendable {
  package let store: any ChunkStore
  package let peer: PeerSlot
  package let namer: ChunkNamer
  /// What the flows of the same machine have used; nil where nobody wants to know.
  private let ring: ServiceRing?

  package init(store: any ChunkStore, peer: PeerSlot, tenant: String, ring: ServiceRing? = nil) {
    self.store = store
    self.peer = peer
    self.ring = ring
    namer = ChunkNamer(tenant: tenant)
  }

  /// A chunk of the flow: may its name go alone?
  func isShared(_ name: ChunkName) -> Bool {
    guard store.isShared(name, with: peer) else { return false }
    ring?.note(name)
    return true
  }

  /// A chunk that has gone by in full.
  func learned(_ name: ChunkName, _ bytes: ByteBuffer) {
    ring?.note(name)
    store.put(name, bytes, sharedWith: peer)
  }

  /// A chunk that the peer has named.
  func named(_ name: ChunkName) { ring?.note(name) }
}

extension ChunkNamer {
  /// SHA-256 over a block of 64 octets that stands for the tenant, and the chunk: the block is hashed once for all chunks.
  package init(tenant: String) {
    var salted = SHA256()
    let tenantDigest = SHA256.hash(data: Array("longhaul 1 chunk \(tenant)".utf8))
    salted.update(data: Array(tenantDigest) + Array(tenantDigest))
    let start = salted
    self.init { chunk in
      var hash = start
      hash.update(bufferPointer: chunk)
      return hash.finalize().withUnsafeBytes { digest in
        ChunkName(
          high: UInt64(bigEndian: digest.loadUnaligned(as: UInt64.self)),
          middle: UInt64(bigEndian: digest.loadUnaligned(fromByteOffset: 8, as: UInt64.self)),
          low: UInt32(bigEndian: digest.loadUnaligned(fromByteOffset: 16, as: UInt32.self)))
      }
    }
  }
}
