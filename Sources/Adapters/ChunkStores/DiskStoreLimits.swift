/// The bounds of a store on disk, with their arithmetic.
struct DiskStoreLimits: Sendable {
  /// A smaller store would not hold two of the largest chunks.
  static let smallestCapacity = 64 << 10
  /// A segment is what is evicted at once: a 64th of the store, so that little of it is lost or idle at a time, ...
  static let segmentsAtLeast = 64
  static let smallestSegment = 8 << 10
  /// ... 64 MiB where that is enough for 256 of them: each holds a descriptor, and 1 TiB has then no more of them than 16 GiB. 2 GiB: offsets have 32 bits.
  static let usualSegment = 64 << 20
  static let segmentsAtMost = 256
  static let largestSegment = 2 << 30
  /// What one write hands to the kernel, and what is read at once in a scan: a disk of 500 MB/s takes 2 ms for it, a system call 0.2 ms.
  static let batch = 1 << 20
  /// Chunks that wait for the disk: 1 Gbit/s for half a second. A disk that does not follow for longer costs chunks, never memory.
  static let queue = 64 << 20
  /// What copying forward may add to a full queue.
  static let copying = 2 * batch
  /// Reads that wait for the reading threads. Each has a caller that holds a flow of up to 32 KiB back: more would wait for seconds on a slow disk.
  static let reads = 1024
  /// Two reads at a time: a chunk is 16 us of a disk of 500 MB/s, and a rotating one gains nothing from more.
  static let readingThreads = 2
  /// A checkpoint of 1 GiB of chunks has 5 MB. Its distance is what has to be scanned after a kill: at 1 Gbit/s, 7 GB, some 15 s of reading, in the background.
  static let checkpointSeconds = 60
  /// ... and large ones are further apart, so that they take at most a hundredth of a disk of 500 MB/s.
  static let checkpointOctetsPerSecond = 5_000_000
  /// After a failed write nothing is taken for so long.
  static let retrySeconds: Int64 = 10
  /// Lines of one kind about one segment.
  static let logSeconds: Int64 = 60

  let capacity: Int
  let segment: Int
  let queue: Int
  /// Kept free, so that chunks that are used can be copied forward, octet for octet as new ones come, before their segment must go: a 16th, four segments full of such chunks.
  let headroom: Int

  init(capacity: Int) {
    self.capacity = max(capacity, DiskStoreLimits.smallestCapacity)
    let share = self.capacity / DiskStoreLimits.segmentsAtLeast
    segment = min(
      max(min(max(share, DiskStoreLimits.smallestSegment), DiskStoreLimits.usualSegment), self.capacity / DiskStoreLimits.segmentsAtMost),
      DiskStoreLimits.largestSegment)
    headroom = max(self.capacity / 16, segment)
    // A small store's queue is a quarter of it, and never less than two of the largest chunks.
    queue = min(max(self.capacity / 4, DiskStoreLimits.smallestCapacity), DiskStoreLimits.queue)
  }
}
