import Dedup

/// One chunk in memory: 40 octets.
struct IndexEntry {
  var name: ChunkName
  var place: Place
  /// The next in the list of its segment, or of the unused.
  var next: UInt32 = 0
  /// The shard's clock at its last use; 0 while it has not been used since it was written.
  var used: UInt32 = 0
  /// 0: dead. It stays in its segment's list until the segment goes.
  var octets: UInt16
  var peers: UInt16
}

/// One part of the index of a store on disk: name -> place.
///
/// Entries lie in pages that never move. A table of 4 octets a place finds them by name (open addressing, linear probing; removal shifts back, so that there are no
/// tombstones), and each segment's entries are a list, so that a segment is forgotten without a look at all others. A chunk takes 40 octets here and 4.6 to 9.1 in the table,
/// which is 7/16 to 7/8 full.
struct IndexShard {
  /// 40 KiB a page.
  private static let pageEntries = 1024
  private static let smallestTable = 64
  /// The last uses: 16 shards x 4,096 chunks are 512 MiB of them; 16 KiB of memory a shard.
  static let ring = 4096
  /// A chunk that is used again and again is noted in the ring once in so many uses.
  private static let ringGap: UInt32 = 1024

  private(set) var figures = ChunkStoreFigures()
  /// Puts, news about peers, removals: what a checkpoint would have to say.
  private(set) var changes = 0
  private let seed: UInt64
  private var pages: [[IndexEntry]] = []
  /// Entry number + 1; 0 is empty. The size is a power of two.
  private var table = [UInt32](repeating: 0, count: IndexShard.smallestTable)
  /// Entry number + 1; 0 ends a list.
  private var free: UInt32 = 0
  private var lists: [UInt32: UInt32] = [:]
  /// Segments before this one are gone: a put that was overtaken by its segment's end is not noted.
  private var firstSegment: UInt32 = 0
  private var clock: UInt32 = 1
  private var recentUses: [UInt32] = []
  private var ringNext = 0

  /// - Parameter seed: spreads names over the table in a way that their makers cannot foresee.
  init(seed: UInt64) { self.seed = seed }

  var pageCount: Int { pages.count }

  /// Octets of memory that all of it takes.
  var memory: Int {
    pages.reduce(0) { $0 + $1.capacity * MemoryLayout<IndexEntry>.stride } + (table.capacity + recentUses.capacity)
      * MemoryLayout<UInt32>.stride
  }

  // MARK: Reading

  func contains(_ name: ChunkName) -> Bool { find(name) != nil }

  /// Where a chunk is; a use, counted as a hit or a miss.
  mutating func use(_ name: ChunkName) -> (place: Place, octets: Int)? {
    guard let number = find(name) else {
      figures.misses += 1
      return nil
    }
    figures.hits += 1
    use(number)
    let entry = self[number]
    return (entry.place, Int(entry.octets))
  }

  mutating func isShared(_ name: ChunkName, with bit: UInt16) -> Bool {
    guard let number = find(name), self[number].peers & bit != 0 else { return false }
    use(number)
    return true
  }

  func recent(_ limit: Int) -> [ChunkReference] {
    var found: [ChunkReference] = []
    var seen: Set<UInt32> = []
    for step in 0..<recentUses.count where found.count < limit {
      let position = (recentUses.count < IndexShard.ring ? recentUses.count : ringNext) - 1 - step
      let number = recentUses[position < 0 ? position + recentUses.count : position]
      let entry = self[number]
      guard entry.octets > 0, seen.insert(number).inserted else { continue }
      found.append(ChunkReference(name: entry.name, octets: Int(entry.octets)))
    }
    return found
  }

  /// The live entries of one page.
  func page(_ index: Int) -> [IndexEntry] { index < pages.count ? pages[index].filter { $0.octets > 0 } : [] }

  /// Chunks of a segment that were used since they were written there, the last used first.
  func usedChunks(of segment: UInt32) -> [IndexEntry] {
    var found: [IndexEntry] = []
    var link = lists[segment] ?? 0
    while link != 0 {
      let entry = self[link - 1]
      if entry.octets > 0, entry.used != 0 { found.append(entry) }
      link = entry.next
    }
    return found.sorted { clock &- $0.used < clock &- $1.used }
  }

  // MARK: Beliefs

  /// The chunk is here already: a use, and what is known of a peer is added. False if it is not.
  mutating func note(_ name: ChunkName, sharedWith bit: UInt16) -> Bool {
    guard let number = find(name) else { return false }
    if self[number].peers | bit != self[number].peers {
      self[number].peers |= bit
      changes += 1
    }
    use(number)
    return true
  }

  /// Adds to what is known of a chunk, without a use. False if it is not here.
  mutating func believe(_ name: ChunkName, of bit: UInt16) -> Bool {
    guard let number = find(name) else { return false }
    if self[number].peers & bit == 0 {
      self[number].peers |= bit
      changes += 1
    }
    return true
  }

  func peers(of name: ChunkName) -> UInt16 { find(name).map { self[$0].peers } ?? 0 }

  mutating func forget(_ name: ChunkName, of bit: UInt16) {
    guard let number = find(name), self[number].peers & bit != 0 else { return }
    self[number].peers &= ~bit
    changes += 1
  }

  /// False past the last page.
  mutating func forget(all bit: UInt16, onPage page: Int) -> Bool {
    guard page < pages.count else { return false }
    for index in pages[page].indices { pages[page][index].peers &= ~bit }
    changes += 1
    return true
  }

  // MARK: Writing

  /// A chunk has been written. Where two came at once the first stays: the other record is never asked for.
  mutating func insert(_ name: ChunkName, at place: Place, octets: Int, peers: UInt16) {
    guard place.segment >= firstSegment, !note(name, sharedWith: peers) else { return }
    add(IndexEntry(name: name, place: place, octets: UInt16(octets), peers: peers))
  }

  /// The same chunk stands in another place now.
  mutating func move(_ name: ChunkName, from old: Place, to place: Place) {
    guard place.segment >= firstSegment, let number = find(name), self[number].place == old else { return }
    let (octets, peers) = (Int(self[number].octets), self[number].peers)
    remove(name, at: old)
    add(IndexEntry(name: name, place: place, octets: UInt16(octets), peers: peers))
  }

  /// What stands there is not the chunk. False if it is elsewhere by now.
  @discardableResult
  mutating func remove(_ name: ChunkName, at place: Place) -> Bool {
    guard let slot = slot(of: name) else { return false }
    let number = table[slot] - 1
    guard self[number].place == place else { return false }
    vacate(slot)
    figures.chunks -= 1
    figures.octets -= Int(self[number].octets)
    self[number].octets = 0
    changes += 1
    return true
  }

  /// What was to be written from there to the segment's end has not been.
  mutating func removeTail(from place: Place) {
    var link = lists[place.segment] ?? 0
    while link != 0 {
      let entry = self[link - 1]
      if entry.octets > 0, entry.place >= place { remove(entry.name, at: entry.place) }
      link = entry.next
    }
  }

  /// The segment is gone; those before it went earlier.
  mutating func evict(_ segment: UInt32) {
    firstSegment = max(firstSegment, segment + 1)
    // With what a put noted of a segment that had been discarded by then.
    for number in lists.keys where number <= segment { figures.evicted += discard(number) }
  }

  /// Forgets what stands in a segment, and how many chunks that were.
  @discardableResult
  mutating func discard(_ segment: UInt32) -> Int {
    var live = 0
    var link = lists.removeValue(forKey: segment) ?? 0
    while link != 0 {
      let number = link - 1
      let entry = self[number]
      if entry.octets > 0, remove(entry.name, at: entry.place) { live += 1 }
      link = entry.next
      self[number].next = free
      free = number + 1
    }
    return live
  }

  /// What was counted as a hit could not be read without waiting, or not at all.
  mutating func uncountHit(isMiss: Bool) {
    figures.hits -= 1
    if isMiss { figures.misses += 1 }
  }

  // MARK: Inside

  private subscript(_ number: UInt32) -> IndexEntry {
    get { pages[Int(number) / IndexShard.pageEntries][Int(number) % IndexShard.pageEntries] }
    _modify { yield &pages[Int(number) / IndexShard.pageEntries][Int(number) % IndexShard.pageEntries] }
  }

  private mutating func use(_ number: UInt32) {
    clock = clock == .max ? 1 : clock + 1
    let used = self[number].used
    if used == 0 || clock &- used > IndexShard.ringGap { noteRecent(number) }
    self[number].used = clock
  }

  private mutating func noteRecent(_ number: UInt32) {
    if recentUses.count < IndexShard.ring { recentUses.append(number) } else { recentUses[ringNext] = number }
    ringNext = (ringNext + 1) % IndexShard.ring
  }

  private mutating func add(_ entry: IndexEntry) {
    if (figures.chunks + 1) * 8 > table.count * 7 { grow() }
    var entry = entry
    entry.next = lists[entry.place.segment] ?? 0
    let number: UInt32
    if free != 0 {
      number = free - 1
      free = self[number].next
      self[number] = entry
    } else {
      if pages.last?.count ?? IndexShard.pageEntries == IndexShard.pageEntries {
        var page: [IndexEntry] = []
        page.reserveCapacity(IndexShard.pageEntries)
        pages.append(page)
      }
      number = UInt32((pages.count - 1) * IndexShard.pageEntries + pages[pages.count - 1].count)
      pages[pages.count - 1].append(entry)
    }
    lists[entry.place.segment] = number + 1
    place(number)
    noteRecent(number)
    figures.chunks += 1
    figures.octets += Int(entry.octets)
    changes += 1
  }

  private func home(_ name: ChunkName) -> Int {
    Int(truncatingIfNeeded: ((name.middle ^ seed) &* 0x9e37_79b9_7f4a_7c15) >> 20) & (table.count - 1)
  }

  private func slot(of name: ChunkName) -> Int? {
    var slot = home(name)
    while table[slot] != 0 {
      if self[table[slot] - 1].name == name { return slot }
      slot = (slot + 1) & (table.count - 1)
    }
    return nil
  }

  private func find(_ name: ChunkName) -> UInt32? { slot(of: name).map { table[$0] - 1 } }

  private mutating func place(_ number: UInt32) {
    var slot = home(self[number].name)
    while table[slot] != 0 { slot = (slot + 1) & (table.count - 1) }
    table[slot] = number + 1
  }

  /// What follows moves up where its home allows it, so that no search ends too early.
  private mutating func vacate(_ slot: Int) {
    let mask = table.count - 1
    var hole = slot
    var next = (hole + 1) & mask
    while table[next] != 0 {
      let home = home(self[table[next] - 1].name)
      if (next &- home) & mask >= (next &- hole) & mask {
        table[hole] = table[next]
        hole = next
      }
      next = (next + 1) & mask
    }
    table[hole] = 0
  }

  private mutating func grow() {
    let old = table
    table = [UInt32](repeating: 0, count: old.count * 2)
    for link in old where link != 0 { place(link - 1) }
  }
}
