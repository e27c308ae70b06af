import Dedup
import Vocabulary

/// Which peer's store each of the 16 slots stands for. Few peers, asked once a connection: a look at all of them is quick.
struct PeerSlots {
  struct Owner: Equatable {
    var peer: NodeID
    /// A peer whose store has begun a new life has another number, and nothing that was believed of the old one is true.
    var store: UInt64
  }

  private(set) var owners = [Owner?](repeating: nil, count: PeerSlot.count)
  private var uses = [UInt64](repeating: 0, count: PeerSlot.count)
  private var clock: UInt64 = 0

  /// `isNew`: what was believed of the slot is to be forgotten.
  mutating func slot(of peer: NodeID, store: UInt64) -> (slot: PeerSlot, isNew: Bool) {
    clock += 1
    let owner = Owner(peer: peer, store: store)
    // A peer has one store: its new one takes the slot of its old one.
    let index = owners.firstIndex { $0?.peer == peer } ?? owners.firstIndex(of: nil) ?? oldest
    let isNew = owners[index] != owner
    owners[index] = owner
    uses[index] = clock
    return (PeerSlot(index: UInt8(index)), isNew)
  }

  /// The slot of a peer that another one speaks of: its own if it has one with this store, or a free one; nobody gives way.
  mutating func slot(byHearsayOf peer: NodeID, store: UInt64) -> (slot: PeerSlot, isNew: Bool)? {
    guard owners.contains(Owner(peer: peer, store: store)) || !owners.contains(where: { $0?.peer == peer }) && owners.contains(nil) else {
      return nil
    }
    return slot(of: peer, store: store)
  }

  /// Names by the peers that have them; `peers` tells a chunk's bits.
  func beliefs(about names: [ChunkName], _ peers: (ChunkName) -> UInt16) -> [PeerBelief] {
    var found = [[ChunkName]](repeating: [], count: PeerSlot.count)
    for name in names {
      var bits = peers(name)
      while bits != 0 {
        found[bits.trailingZeroBitCount].append(name)
        bits &= bits - 1
      }
    }
    return owners.indices.compactMap { index in
      guard let owner = owners[index], !found[index].isEmpty else { return nil }
      return PeerBelief(peer: owner.peer, store: owner.store, names: found[index])
    }
  }

  /// As it was when the store was last closed.
  mutating func restore(_ owner: Owner, at slot: PeerSlot) { owners[Int(slot.index)] = owner }

  private var oldest: Int { uses.indices.min { uses[$0] < uses[$1] } ?? 0 }
}

extension PeerSlot {
  /// Its bit among the beliefs of a chunk.
  var bit: UInt16 { 1 << UInt16(index) }
}
