import Dedup
import DequeModule
import NIOCore
import Synchronization

/// Records that wait to be written, one after the other as they will stand in one segment.
///
/// `@unchecked Sendable`: octets are appended under the queue's lock and never changed; who has found a record through the queue's lock may read it without. Headers are
/// completed by the one writing thread, after the batch is closed, and nobody else reads those.
final class WriteBatch: @unchecked Sendable {
  let start: Place
  private let memory: UnsafeMutableRawBufferPointer
  fileprivate(set) var count = 0
  /// Of these octets, what was copied from an older segment.
  fileprivate(set) var copied = 0

  init(start: Place, capacity: Int) {
    self.start = start
    memory = .allocate(byteCount: capacity, alignment: 16)
  }

  deinit { memory.deallocate() }

  var end: Place { Place(segment: start.segment, offset: start.offset + UInt32(count)) }
  var octets: UnsafeRawBufferPointer { UnsafeRawBufferPointer(rebasing: memory[..<count]) }

  fileprivate func hasRoom(for length: Int) -> Bool { memory.count - count >= length }

  fileprivate func append(_ record: Record, _ bytes: UnsafeRawBufferPointer, isCopy: Bool) {
    record.write(to: UnsafeMutableRawBufferPointer(rebasing: memory[count...]))
    UnsafeMutableRawBufferPointer(rebasing: memory[(count + Record.header)..<(count + record.length)]).copyMemory(from: bytes)
    count += record.length
    if isCopy { copied += record.length }
  }

  func chunk(at place: Place, octets: Int) -> ByteBuffer {
    let offset = Int(place.offset - start.offset) + Record.header
    return ByteBuffer(bytes: UnsafeRawBufferPointer(rebasing: memory[offset..<(offset + octets)]))
  }

  /// For the writing thread, once the batch is closed.
  func seal(with key: RecordKey) {
    var offset = 0
    while offset < count, let record = Record(unchecked: UnsafeRawBufferPointer(rebasing: memory[offset..<count])) {
      let place = Place(segment: start.segment, offset: start.offset + UInt32(offset))
      key.seal(UnsafeMutableRawBufferPointer(rebasing: memory[offset..<(offset + record.length)]), at: place)
      offset += record.length
    }
  }
}

/// Between those who put and the one thread that writes. A record has its place from the moment it is queued, and can be read from here until it is on disk.
final class WriteQueue: Sendable {
  private struct Waiting {
    var batches: Deque<WriteBatch> = []
    /// The first one is being written and takes nothing more.
    var isFirstClosed = false
    var next: Place
    var octets = 0
    var isScheduled = false
    var isClosed = false
    var pausedUntil: NIODeadline?
  }

  enum Appended {
    case queued(at: Place, wakesWriter: Bool)
    case refused
  }

  private let limits: DiskStoreLimits
  private let waiting: Mutex<Waiting>
  /// Everything before this place is on disk, or will never be.
  private let written: Atomic<UInt64>

  init(limits: DiskStoreLimits, firstSegment: UInt32) {
    self.limits = limits
    let first = Place(segment: firstSegment, offset: 0)
    waiting = Mutex(Waiting(next: first))
    written = Atomic(first.packed)
  }

  var writtenTo: Place { Place(packed: written.load(ordering: .acquiring)) }
  /// Where the next record will stand.
  var next: Place { waiting.withLock { $0.next } }
  var isIdle: Bool { waiting.withLock { $0.batches.isEmpty && !$0.isScheduled } }

  /// Copies the octets. `isCopy`: by the writing thread itself, which copies no more than it has written, and may find its queue full.
  func append(_ record: Record, _ bytes: UnsafeRawBufferPointer, isCopy: Bool = false) -> Appended {
    waiting.withLock { waiting in
      let allowance = isCopy ? DiskStoreLimits.copying : 0
      guard !waiting.isClosed, waiting.octets + record.length <= limits.queue + allowance else { return .refused }
      if let until = waiting.pausedUntil {
        guard until <= .now() else { return .refused }
        waiting.pausedUntil = nil
      }
      if waiting.next.offset > 0, Int(waiting.next.offset) + record.length > limits.segment {
        // A store of 1 GiB (segments of 16 MiB) has written 64 PiB by then.
        guard waiting.next.segment < .max - 1 else { return .refused }
        waiting.next = Place(segment: waiting.next.segment + 1, offset: 0)
      }
      let place = waiting.next
      let isLastOpen = waiting.batches.count > (waiting.isFirstClosed ? 1 : 0)
      if let last = waiting.batches.last, isLastOpen, last.end == place, last.hasRoom(for: record.length) {
        last.append(record, bytes, isCopy: isCopy)
      } else {
        let batch = WriteBatch(start: place, capacity: max(min(DiskStoreLimits.batch, limits.segment), record.length))
        batch.append(record, bytes, isCopy: isCopy)
        waiting.batches.append(batch)
      }
      waiting.next.offset += UInt32(record.length)
      waiting.octets += record.length
      let wakesWriter = !waiting.isScheduled
      waiting.isScheduled = true
      return .queued(at: place, wakesWriter: wakesWriter)
    }
  }

  /// A chunk that is not on disk yet.
  func chunk(at place: Place, octets: Int) -> ByteBuffer? {
    guard place >= writtenTo else { return nil }
    let batch = waiting.withLock { waiting in waiting.batches.first { $0.start <= place && place < $0.end } }
    return batch?.chunk(at: place, octets: octets)
  }

  // MARK: The writing thread

  /// What is to be written now. Nil: nothing, and the next append wakes the writer again.
  func take() -> WriteBatch? {
    waiting.withLock { waiting in
      waiting.isFirstClosed = !waiting.batches.isEmpty
      waiting.isScheduled = waiting.isFirstClosed
      return waiting.batches.first
    }
  }

  func finish(_ batch: WriteBatch) {
    written.store(batch.end.packed, ordering: .releasing)
    waiting.withLock { waiting in
      waiting.batches.removeFirst()
      waiting.isFirstClosed = false
      waiting.octets -= batch.count
    }
  }

  /// It could not be written: all that waits is dropped, nothing is taken for a while, and what comes then begins a segment. Where each dropped batch would have stood.
  func abandon(pause: TimeAmount) -> [Place] {
    waiting.withLock { waiting in
      let places = waiting.batches.map(\.start)
      waiting.batches = []
      waiting.isFirstClosed = false
      waiting.octets = 0
      waiting.pausedUntil = .now() + pause
      waiting.next = Place(segment: waiting.next.segment + 1, offset: 0)
      written.store(waiting.next.packed, ordering: .releasing)
      return places
    }
  }

  /// Nothing more is taken; what waits is still written.
  func close() { waiting.withLock { $0.isClosed = true } }
}
