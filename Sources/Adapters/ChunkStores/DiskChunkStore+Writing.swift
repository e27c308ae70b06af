import Dedup
import NIOCore

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// What the writing thread keeps between batches.
struct WritingState {
  /// The segment that is being written; it never gives way.
  var active: SegmentFile?
  /// The oldest segment, while its used chunks are copied forward.
  var victim: Victim?
  /// Octets that may still be copied: as many as new ones have been written.
  var copyBudget = 0
  var isFailing = false
  /// Of the beliefs: changes of slots up to here are in the index.
  var clearedGeneration: UInt64 = 0
  var checkpointDue = NIODeadline.now() + .seconds(Int64(DiskStoreLimits.checkpointSeconds))
  /// `ChunkIndex.changes` at the last checkpoint.
  var checkpointedChanges = 0

  struct Victim {
    var segment: UInt32
    /// In the order of their places, to be taken from the end.
    var survivors: [IndexEntry]
  }
}

extension DiskChunkStore {
  func wakeWriter() { writer.submit { state in if state == .active { self.writeSome() } } }

  /// One batch; then whoever else waits for this thread has a turn.
  private func writeSome() {
    guard let batch = queue.take() else { return }
    writing.withLock { write(batch, &$0) }
    wakeWriter()
    checkpointIfDue()
  }

  private func write(_ batch: WriteBatch, _ state: inout WritingState) {
    batch.seal(with: folder.key)
    makeRoom(for: batch.count, &state)
    guard let file = openSegment(batch.start.segment, &state), FileOctets.write(file.descriptor, batch.octets, at: Int(batch.start.offset))
    else { return fail(batch, code: errno, &state) }
    segments.setOctets(Int(batch.end.offset), of: file.number)
    queue.finish(batch)
    if state.isFailing {
      state.isFailing = false
      logger.info("the byte cache is written again", metadata: ["folder": "\(folder.path)"])
    }
    state.copyBudget = min(state.copyBudget + batch.count - batch.copied, limits.headroom)
    copyForward(&state)
  }

  private func openSegment(_ number: UInt32, _ state: inout WritingState) -> SegmentFile? {
    if let active = state.active, active.number == number { return active }
    let descriptor = open(folder.segmentPath(number), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return nil }
    let file = SegmentFile(number: number, descriptor: descriptor)
    segments.add(file, octets: 0)
    state.active = file
    return file
  }

  /// What could not be written is forgotten, what waits behind it too, and for a while nothing is taken. A disk that is full gets room from the oldest segment: the cache
  /// goes on with what the disk has, and a disk that others fill takes the cache back bit by bit.
  private func fail(_ batch: WriteBatch, code: Int32, _ state: inout WritingState) {
    state.isFailing = true
    for place in queue.abandon(pause: .seconds(DiskStoreLimits.retrySeconds)) {
      if place.offset == 0 {
        discard(place.segment)
      } else {
        _ = index.each { $0.removeTail(from: place) }
        if let file = segments.file(place.segment) {
          ftruncate(file.descriptor, off_t(place.offset))
          segments.setOctets(min(segments.octets(of: place.segment), Int(place.offset)), of: place.segment)
        }
      }
    }
    state.active = nil
    let isFull = code == ENOSPC || code == EDQUOT
    if isFull, let oldest = segments.oldest { evict(oldest, &state) }
    guard pace.admits("writing") else { return }
    logger.error(
      "the byte cache cannot be written: \(String(cString: strerror(code))); chunks are not kept for \(DiskStoreLimits.retrySeconds) s\(isFull ? ", and the oldest give way" : "")",
      metadata: ["folder": "\(folder.path)"])
  }

  private func discard(_ segment: UInt32) {
    _ = index.each { $0.discard(segment) }
    guard segments.file(segment) != nil else { return }
    segments.remove(segment)
    unlink(folder.segmentPath(segment))
  }

  // MARK: Eviction

  // A clock over the log: the oldest segment gives way, and of its chunks those that were used since they were written there are written again at the log's end, unused.
  // Chunks that are used at least once while the log goes round stay. It is chosen over least-recently-used segments since a segment's chunks come from many flows and
  // have little in common, and over an order of all chunks since single chunks cannot be taken out of a segment.

  /// At least so many octets are free afterwards, by all means.
  func makeRoom(for octets: Int, _ state: inout WritingState) {
    while segments.total + octets > limits.capacity, let oldest = segments.oldest, oldest != state.active?.number { evict(oldest, &state) }
  }

  private func evict(_ segment: UInt32, _ state: inout WritingState) {
    if state.victim?.segment == segment { state.victim = nil }
    _ = index.each { $0.evict(segment) }
    segments.remove(segment)
    unlink(folder.segmentPath(segment))
  }

  /// Keeps the headroom free, as far as the budget reaches.
  private func copyForward(_ state: inout WritingState) {
    while segments.total + limits.headroom > limits.capacity {
      if state.victim == nil {
        guard let oldest = segments.oldest, oldest != state.active?.number else { return }
        let survivors = index.usedChunks(of: oldest).sorted { $0.place > $1.place }
        state.victim = WritingState.Victim(segment: oldest, survivors: survivors)
      }
      guard let victim = state.victim else { return }
      guard let chunk = victim.survivors.last else {
        evict(victim.segment, &state)
        continue
      }
      let length = Record.header + Int(chunk.octets)
      guard state.copyBudget >= length, copy(chunk, from: victim.segment) else { return }
      state.copyBudget -= length
      state.victim?.survivors.removeLast()
    }
  }

  /// False if the queue is full: later.
  private func copy(_ chunk: IndexEntry, from segment: UInt32) -> Bool {
    guard let file = segments.file(segment) else { return true }
    let length = Record.header + Int(chunk.octets)
    let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: length, alignment: 16)
    defer { memory.deallocate() }
    let count = file.read(into: memory, at: Int(chunk.place.offset), waiting: true, residence: residence)
    guard count == length,
      folder.key.isAuthentic(UnsafeRawBufferPointer(memory), name: chunk.name, octets: Int(chunk.octets), at: chunk.place)
    else {
      noteDamage(chunk.name, at: chunk.place, why: "a chunk is not what was written")
      _ = index.with(chunk.name) { $0.remove(chunk.name, at: chunk.place) }
      return true
    }
    let record = Record(name: chunk.name, octets: Int(chunk.octets), peers: chunk.peers)
    guard case .queued(let place, _) = queue.append(record, UnsafeRawBufferPointer(rebasing: memory[Record.header...]), isCopy: true) else {
      return false
    }
    index.with(chunk.name) { $0.move(chunk.name, from: chunk.place, to: place) }
    return true
  }

  // MARK: Checkpoints and peers

  func checkpointIfDue() {
    let isDue = writing.withLock { $0.checkpointDue <= .now() }
    if isDue { checkpoint() }
  }

  func checkpoint() {
    writing.withLock { state in
      let changes = index.changes
      let seconds = max(DiskStoreLimits.checkpointSeconds, index.figures.chunks * 32 / DiskStoreLimits.checkpointOctetsPerSecond)
      state.checkpointDue = .now() + .seconds(Int64(seconds))
      guard changes != state.checkpointedChanges else { return }
      let checkpoint = Checkpoint(place: queue.writtenTo, generation: state.clearedGeneration)
      if checkpoint.write(index, identity: identity, to: folder.checkpointPath) {
        state.checkpointedChanges = changes
      } else if pace.admits("checkpoint") {
        logger.warning(
          "the byte cache's checkpoint cannot be written: \(ChunkStoreError.systemWords); the next start will read the segments instead",
          metadata: ["folder": "\(folder.path)"])
      }
    }
  }

  /// A slot has another owner: what was believed of the former one goes, then the change is kept. What is put for the new owner meanwhile may be forgotten with it:
  /// that costs the octets of a few chunks once.
  func adopt(_ file: PeersFile, clearing bit: UInt16) {
    if bit != 0 {
      index.forget(all: bit)
      elsewhere.forget(all: bit)
      clearing.bitwiseAnd(~bit, ordering: .relaxed)
    }
    writing.withLock { $0.clearedGeneration = max($0.clearedGeneration, file.generation) }
    if !StoreFolder.write(file.text, to: folder.peersPath, isFlushed: false), pace.admits("peers") {
      logger.warning(
        "the byte cache's list of peers cannot be written: \(ChunkStoreError.systemWords); after a restart their caches count as empty",
        metadata: ["folder": "\(folder.path)"])
    }
  }
}
