import Dedup
import Logging
import NIOCore
import NIOPosix
import Synchronization
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Chunks on disk: a log of records in segments, an index of it in memory, one thread that writes, a few that read what the page cache has not.
///
/// Nothing is flushed (fsync), since nothing must survive: what a killed program has written the kernel keeps, and what a power failure has left half written is not
/// authentic and reads as absent. `README.md` has the life of a chunk.
package final class DiskChunkStore: ChunkStore {
  struct Peers {
    var slots = PeerSlots()
    var file = PeersFile()
  }

  let folder: StoreFolder
  let limits: DiskStoreLimits
  let index = ChunkIndex()
  /// Not kept over a restart.
  let elsewhere = BeliefBook()
  let segments = SegmentTable()
  let queue: WriteQueue
  let residence: SegmentFile.Residence
  let logger: Logger
  let pace = LogPace()
  let peers: Mutex<Peers>
  /// Bits of slots whose old beliefs are still being taken out of the index: nobody is told of any meanwhile.
  let clearing = Atomic<UInt16>(0)
  let dropped = Atomic<Int>(0)
  let damaged = Atomic<Int>(0)
  let readsWaiting = Atomic<Int>(0)
  /// One thread: all that changes files runs there, in order.
  let writer = NIOThreadPool(numberOfThreads: 1)
  let readers = NIOThreadPool(numberOfThreads: DiskStoreLimits.readingThreads)
  /// The writing thread's own.
  let writing = Mutex(WritingState())
  private let isClosed = Atomic(false)
  private let upkeep = Mutex<Task<Void, Never>?>(nil)

  /// Opens what is in the folder, or makes it. What a checkpoint knows is there at once; what it does not know is read in the background, the newest first.
  ///
  /// - Parameters:
  ///   - folder: for this store alone, and one process at a time.
  ///   - capacity: octets of segments. Index and checkpoint come on top: some 50 octets of memory and 32 of disk for each chunk.
  package init(folder path: String, capacity: Int, logger: Logger) throws(ChunkStoreError) {
    folder = try StoreFolder(path)
    limits = DiskStoreLimits(capacity: capacity)
    residence = folder.residence
    self.logger = logger
    let opening = try Opening(folder: folder, segments: segments, logger: logger)
    queue = WriteQueue(limits: limits, firstSegment: opening.nextSegment)
    var peers = Peers(file: opening.peers)
    for (index, slot) in opening.peers.slots.enumerated() {
      if let slot { peers.slots.restore(slot.owner, at: PeerSlot(index: UInt8(index))) }
    }
    self.peers = Mutex(peers)
    writing.withLock { $0.clearedGeneration = opening.peers.generation }
    writer.start()
    readers.start()
    opening.restore(index)
    for scan in opening.scans {
      writer.submit { state in if state == .active { opening.run(scan, index: self.index, segments: self.segments) } }
    }
    writer.submit { state in
      guard state == .active else { return }
      opening.report(self.index)
      self.writing.withLock { self.makeRoom(for: 0, &$0) }
    }
    upkeep.withLock { task in
      task = Task { [weak self] in
        while true {
          do { try await Task.sleep(for: .seconds(DiskStoreLimits.checkpointSeconds)) } catch { return }
          guard let self else { return }
          self.writer.submit { state in if state == .active { self.checkpointIfDue() } }
        }
      }
    }
  }

  package var identity: UInt64 { folder.identity }

  // MARK: Beliefs

  package func slot(of peer: NodeID, store: UInt64) -> PeerSlot {
    peers.withLock { peers in
      let before = peers.slots.owners
      let (slot, isNew) = peers.slots.slot(of: peer, store: store)
      // A slot that nobody had has no bits.
      if isNew { give(slot, clearing: before[Int(slot.index)] != nil, &peers) }
      return slot
    }
  }

  /// The slot has its new owner, who is kept in the file of peers.
  private func give(_ slot: PeerSlot, clearing hasBits: Bool, _ peers: inout Peers) {
    guard let owner = peers.slots.owners[Int(slot.index)] else { return }
    peers.file.generation += 1
    peers.file.slots[Int(slot.index)] = PeersFile.Slot(owner: owner, since: queue.next, generation: peers.file.generation)
    if hasBits { clearing.bitwiseOr(slot.bit, ordering: .relaxed) }
    let file = peers.file
    writer.submit { state in if state == .active { self.adopt(file, clearing: hasBits ? slot.bit : 0) } }
  }

  package func contains(_ name: ChunkName) -> Bool { index.with(name) { $0.contains(name) } }

  package func isShared(_ name: ChunkName, with peer: PeerSlot) -> Bool {
    guard clearing.load(ordering: .relaxed) & peer.bit == 0 else { return false }
    return index.with(name) { $0.isShared(name, with: peer.bit) } || elsewhere.isShared(name, with: peer.bit)
  }

  package func forget(_ name: ChunkName, of peer: PeerSlot) {
    index.with(name) { $0.forget(name, of: peer.bit) }
    elsewhere.forget(name, of: peer.bit)
  }

  package func believe(_ belief: PeerBelief) {
    let slot = peers.withLock { peers in
      peers.slots.slot(byHearsayOf: belief.peer, store: belief.store).map { slot, isNew in
        if isNew { give(slot, clearing: false, &peers) }
        return slot
      }
    }
    guard let peer = slot else { return }
    for name in belief.names where !index.with(name, { $0.believe(name, of: peer.bit) }) { elsewhere.add(name, bit: peer.bit) }
  }

  package func beliefs(about names: [ChunkName]) -> [PeerBelief] {
    let slots = peers.withLock { $0.slots }
    let cleared = clearing.load(ordering: .relaxed)
    return slots.beliefs(about: names) { name in index.with(name) { $0.peers(of: name) } & ~cleared }
  }

  package func recent(_ limit: Int) -> [ChunkReference] { index.recent(limit) }

  package var figures: ChunkStoreFigures {
    var figures = index.figures
    figures.dropped = dropped.load(ordering: .relaxed)
    figures.damaged = damaged.load(ordering: .relaxed)
    return figures
  }

  /// Octets of memory that the index takes: some 50 a chunk.
  package var indexOctets: Int { index.each { $0.memory }.reduce(0, +) }

  // MARK: Octets

  package func put(_ name: ChunkName, _ bytes: ByteBuffer, sharedWith peer: PeerSlot?) {
    let bit = peer?.bit ?? 0
    guard (1...ChunkLimits.maximum).contains(bytes.readableBytes), !index.with(name, { $0.note(name, sharedWith: bit) }) else { return }
    let record = Record(name: name, octets: bytes.readableBytes, peers: bit)
    switch bytes.withUnsafeReadableBytes({ queue.append(record, $0) }) {
    case .refused: dropped.add(1, ordering: .relaxed)
    case .queued(let place, let wakesWriter):
      index.with(name) { $0.insert(name, at: place, octets: record.octets, peers: bit) }
      if wakesWriter { wakeWriter() }
    }
  }

  package func take(_ name: ChunkName) -> ByteBuffer? {
    guard let (place, octets) = index.with(name, { $0.use(name) }) else { return nil }
    if let bytes = queue.chunk(at: place, octets: octets) { return bytes }
    return read(name, at: place, octets: octets, waiting: false)
  }

  package func fetch(_ name: ChunkName, on loop: any EventLoop, then: @escaping @Sendable (ByteBuffer?) -> Void) {
    guard let (place, octets) = index.with(name, { $0.use(name) }) else { return loop.execute { then(nil) } }
    if let bytes = queue.chunk(at: place, octets: octets) { return loop.execute { then(bytes) } }
    guard readsWaiting.add(1, ordering: .relaxed).newValue <= DiskStoreLimits.reads else {
      readsWaiting.subtract(1, ordering: .relaxed)
      index.with(name) { $0.uncountHit(isMiss: true) }
      return loop.execute { then(nil) }
    }
    readers.submit { state in
      let bytes = state == .active ? self.read(name, at: place, octets: octets, waiting: true) : nil
      self.readsWaiting.subtract(1, ordering: .relaxed)
      loop.execute { then(bytes) }
    }
  }

  // MARK: The end

  /// Writes what waits, and a checkpoint. To be called once nobody puts any more; a store that is not closed is as one that was killed, but for its threads.
  package func close() async {
    guard !isClosed.exchange(true, ordering: .relaxed) else { return }
    queue.close()
    upkeep.withLock { $0?.cancel() }
    await settle()
    try? await writer.runIfActive { self.checkpoint() }
    try? await writer.shutdownGracefully()
    try? await readers.shutdownGracefully()
    folder.release()
  }

  /// Until all that waits is on disk (or dropped), and all segments are read.
  package func settle() async {
    repeat { guard (try? await writer.runIfActive {}) != nil else { return } } while !queue.isIdle
  }
}
