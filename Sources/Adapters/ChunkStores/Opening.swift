import Logging
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// What is found in a folder when its store is opened, and what is still to be read.
final class Opening: Sendable {
  struct Scan: Sendable {
    var segment: UInt32
    var from: Int
  }

  let peers: PeersFile
  /// After every number that was ever used here: a place is never used twice.
  let nextSegment: UInt32
  /// The newest first: what is found twice is in its newest place.
  let scans: [Scan]
  private let folder: StoreFolder
  private let segments: SegmentTable
  private let logger: Logger
  private let checkpoint: Mutex<(Checkpoint, [IndexEntry])?>

  init(folder: StoreFolder, segments: SegmentTable, logger: Logger) throws(ChunkStoreError) {
    self.folder = folder
    self.segments = segments
    self.logger = logger
    let found = try folder.segments()
    for number in found {
      let path = folder.segmentPath(number)
      let descriptor = open(path, O_RDWR | O_CLOEXEC)
      guard descriptor >= 0 else { throw .folder(path: folder.path, doing: "open \(path)", why: ChunkStoreError.systemWords) }
      segments.add(SegmentFile(number: number, descriptor: descriptor), octets: max(Int(lseek(descriptor, 0, SEEK_END)), 0))
    }
    peers = StoreFolder.read(folder.peersPath).flatMap { PeersFile($0) } ?? PeersFile()
    var known: (Checkpoint, [IndexEntry])?
    switch Checkpoint.read(folder.checkpointPath, identity: folder.identity) {
    case .whole(let checkpoint, let entries): known = (checkpoint, entries)
    case .absent: break
    case .unusable(let why):
      logger.warning(
        "the byte cache's checkpoint is not used: \(why); all \(found.count) segments are read instead",
        metadata: ["folder": "\(folder.path)"])
    }
    let place = known?.0.place ?? Place(segment: 0, offset: 0)
    let used = [found.last ?? 0, place.segment] + peers.slots.compactMap { $0?.since.segment }
    nextSegment = (used.max() ?? 0) + 1
    scans = found.reversed().filter { $0 >= place.segment }.map { Scan(segment: $0, from: $0 == place.segment ? Int(place.offset) : 0) }
    checkpoint = Mutex(known)
  }

  /// Notes what the checkpoint knows and what is still there.
  func restore(_ index: ChunkIndex) {
    guard let (checkpoint, entries) = checkpoint.withLock({ $0.take() }) else { return }
    let mask = peers.mask(of: checkpoint)
    for entry in entries where Int(entry.place.offset) + Record.header + Int(entry.octets) <= segments.octets(of: entry.place.segment) {
      index.with(entry.name) { $0.insert(entry.name, at: entry.place, octets: Int(entry.octets), peers: entry.peers & mask) }
    }
  }

  func run(_ scan: Scan, index: ChunkIndex, segments: SegmentTable) {
    let octets = segments.octets(of: scan.segment)
    // A checkpoint may know octets that a power failure has taken.
    guard scan.from < octets, let file = segments.file(scan.segment) else { return }
    let outcome = SegmentScan(file: file).run(from: scan.from) { record, place in
      index.with(record.name) { shard in
        guard !shard.contains(record.name) else { return }
        shard.insert(record.name, at: place, octets: record.octets, peers: record.peers & peers.mask(at: place))
      }
    }
    let metadata: Logger.Metadata = ["file": "\(folder.segmentPath(scan.segment))"]
    guard let end = outcome.end else {
      logger.warning("a segment of the byte cache cannot be read: \(ChunkStoreError.systemWords); its chunks are lost", metadata: metadata)
      return
    }
    if outcome.skipped > 0 {
      logger.warning(
        "a segment of the byte cache is damaged: \(outcome.skipped) octets in it are no chunks and are passed over", metadata: metadata)
    }
    if end < octets {
      logger.notice(
        "a segment of the byte cache ends in a chunk that was not written whole: its last \(octets - end) octets are cut off",
        metadata: metadata)
      ftruncate(file.descriptor, off_t(end))
      segments.setOctets(end, of: scan.segment)
    }
  }

  func report(_ index: ChunkIndex) {
    let figures = index.figures
    logger.info(
      "the byte cache is open",
      metadata: [
        "folder": "\(folder.path)", "chunks": "\(figures.chunks)", "octets": "\(figures.octets)", "segments.read": "\(scans.count)",
      ])
  }
}
