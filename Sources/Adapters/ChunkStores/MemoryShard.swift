import Dedup

/// One part of a `MemoryChunkStore`: a dictionary, and the chunks in the order of their use as a list through an array.
struct MemoryShard {
  /// What a chunk takes beside its octets: a node (48), a place in the dictionary (28 at three quarters full, 56 after it has doubled), the array's head and the allocator's (48).
  static let overhead = 152

  private struct Node {
    var name: ChunkName
    var octets: [UInt8]
    var peers: UInt16
    var newer: Int32
    var older: Int32
  }

  private static let none: Int32 = -1

  let capacity: Int
  private(set) var figures = ChunkStoreFigures()
  private var places: [ChunkName: Int32] = [:]
  private var nodes: [Node] = []
  private var free: [Int32] = []
  private var newest = MemoryShard.none
  private var oldest = MemoryShard.none

  init(capacity: Int) { self.capacity = capacity }

  private var charged: Int { figures.octets + figures.chunks * MemoryShard.overhead }

  func contains(_ name: ChunkName) -> Bool { places[name] != nil }

  /// The chunk is here already: a use, and what is known of a peer is added. False if it is not.
  mutating func note(_ name: ChunkName, sharedWith peer: PeerSlot?) -> Bool {
    guard let place = places[name] else { return false }
    nodes[Int(place)].peers |= peer?.bit ?? 0
    use(place)
    return true
  }

  mutating func isShared(_ name: ChunkName, with peer: PeerSlot) -> Bool {
    guard let place = places[name], nodes[Int(place)].peers & peer.bit != 0 else { return false }
    use(place)
    return true
  }

  /// Adds to what is known of a chunk, without a use. False if it is not here.
  mutating func believe(_ name: ChunkName, of peer: PeerSlot) -> Bool {
    guard let place = places[name] else { return false }
    nodes[Int(place)].peers |= peer.bit
    return true
  }

  func peers(of name: ChunkName) -> UInt16 { places[name].map { nodes[Int($0)].peers } ?? 0 }

  mutating func forget(_ name: ChunkName, of peer: PeerSlot) {
    guard let place = places[name] else { return }
    nodes[Int(place)].peers &= ~peer.bit
  }

  mutating func forget(all peer: PeerSlot) { for index in nodes.indices { nodes[index].peers &= ~peer.bit } }

  mutating func insert(_ name: ChunkName, _ octets: [UInt8], sharedWith peer: PeerSlot?) {
    // Two loops may have come with the same chunk at once.
    if note(name, sharedWith: peer) { return }
    guard octets.count + MemoryShard.overhead <= capacity else {
      figures.dropped += 1
      return
    }
    while charged + octets.count + MemoryShard.overhead > capacity { evict() }
    let node = Node(name: name, octets: octets, peers: peer?.bit ?? 0, newer: MemoryShard.none, older: MemoryShard.none)
    let place: Int32
    if let reused = free.popLast() {
      place = reused
      nodes[Int(place)] = node
    } else {
      place = Int32(nodes.count)
      nodes.append(node)
    }
    places[name] = place
    figures.chunks += 1
    figures.octets += octets.count
    linkNewest(place)
  }

  mutating func take(_ name: ChunkName) -> [UInt8]? {
    guard let place = places[name] else {
      figures.misses += 1
      return nil
    }
    figures.hits += 1
    use(place)
    return nodes[Int(place)].octets
  }

  func recent(_ limit: Int) -> [ChunkReference] {
    var found: [ChunkReference] = []
    var place = newest
    while place != MemoryShard.none, found.count < limit {
      let node = nodes[Int(place)]
      found.append(ChunkReference(name: node.name, octets: node.octets.count))
      place = node.older
    }
    return found
  }

  private mutating func evict() {
    let place = oldest
    let node = nodes[Int(place)]
    unlink(place)
    places[node.name] = nil
    nodes[Int(place)].octets = []
    free.append(place)
    figures.chunks -= 1
    figures.octets -= node.octets.count
    figures.evicted += 1
  }

  private mutating func use(_ place: Int32) {
    guard newest != place else { return }
    unlink(place)
    linkNewest(place)
  }

  private mutating func linkNewest(_ place: Int32) {
    nodes[Int(place)].newer = MemoryShard.none
    nodes[Int(place)].older = newest
    if newest == MemoryShard.none { oldest = place } else { nodes[Int(newest)].newer = place }
    newest = place
  }

  private mutating func unlink(_ place: Int32) {
    let (newer, older) = (nodes[Int(place)].newer, nodes[Int(place)].older)
    if newer == MemoryShard.none { newest = older } else { nodes[Int(newer)].older = older }
    if older == MemoryShard.none { oldest = newer } else { nodes[Int(older)].newer = newer }
  }
}
