import CChecksum
import Dedup

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The index in a file, so that a start need not read all segments: what it knows is everything before `place`. Numbers are big-endian.
///
///     head    "LhCP", 4; the store's identity, 8; place: segment 4, offset 4; generation of the peers' slots, 8; CRC32C, 4
///     block   number of entries, 4 (0 in the last block); entries; CRC32C of everything before, heads and blocks, 4
///     entry   name 20, segment 4, offset 4, octets 2, peers 2
///
/// Nothing that it says is believed of a chunk's octets: a record is verified when it is read. A checkpoint that is cut short or damaged is not used at all.
struct Checkpoint {
  static let magic: UInt32 = 0x4c68_4350  // "LhCP"
  private static let head = 32
  private static let entry = 32
  /// An index page has 1,024 entries; what says more than this is damaged.
  private static let blockEntries = 1024

  var place: Place
  var generation: UInt64

  /// Beside the place, then renamed into it: a reader sees the old one or the new one. Not flushed: one that a power failure has left empty is noticed and not used.
  /// False with errno.
  func write(_ index: ChunkIndex, identity: UInt64, to path: String) -> Bool {
    let draft = "\(path).new"
    let descriptor = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return false }
    var file = ChecksummedFile(descriptor: descriptor)
    file.append(Checkpoint.magic)
    file.append(identity)
    file.append(place.segment)
    file.append(place.offset)
    file.append(generation)
    var isWhole = file.endBlock()
    index.forEachPage { page in
      // What is still in the queue will be found by the scan if it gets to the disk.
      let entries = page.filter { $0.place < place }
      guard isWhole, !entries.isEmpty else { return }
      file.append(UInt32(entries.count))
      for entry in entries {
        file.append(entry.name.high)
        file.append(entry.name.middle)
        file.append(entry.name.low)
        file.append(entry.place.segment)
        file.append(entry.place.offset)
        file.append(entry.octets)
        file.append(entry.peers)
      }
      isWhole = file.endBlock()
    }
    file.append(UInt32(0))
    isWhole = isWhole && file.endBlock()
    close(descriptor)
    guard isWhole, rename(draft, path) == 0 else {
      let code = errno
      unlink(draft)
      errno = code
      return false
    }
    return true
  }

  /// What was read of a file.
  enum Reading {
    case absent
    case unusable(String)
    case whole(Checkpoint, [IndexEntry])
  }

  static func read(_ path: String, identity: UInt64) -> Reading {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return errno == ENOENT ? .absent : .unusable(ChunkStoreError.systemWords) }
    defer { close(descriptor) }
    var file = ChecksummedFile(descriptor: descriptor)
    guard let start = file.block(octets: head - 4), start.number(UInt32.self, at: 0) == magic else { return .unusable("it is damaged") }
    guard start.number(UInt64.self, at: 4) == identity else { return .unusable("it is another store's") }
    let place = Place(segment: start.number(UInt32.self, at: 12), offset: start.number(UInt32.self, at: 16))
    let checkpoint = Checkpoint(place: place, generation: start.number(UInt64.self, at: 20))
    var entries: [IndexEntry] = []
    while let count = file.peekNumber() {
      guard count <= blockEntries, let block = file.block(octets: 4 + Int(count) * entry) else { return .unusable("it is damaged") }
      if count == 0 { return .whole(checkpoint, entries) }
      for index in 0..<Int(count) {
        let at = 4 + index * entry
        let name = ChunkName(
          high: block.number(UInt64.self, at: at), middle: block.number(UInt64.self, at: at + 8),
          low: block.number(UInt32.self, at: at + 16))
        let place = Place(segment: block.number(UInt32.self, at: at + 20), offset: block.number(UInt32.self, at: at + 24))
        entries.append(
          IndexEntry(
            name: name, place: place, octets: block.number(UInt16.self, at: at + 28), peers: block.number(UInt16.self, at: at + 30)))
      }
    }
    return .unusable("it is cut short")
  }
}

/// A file of blocks, each followed by the CRC32C of everything up to there: blocks that were swapped, lost or cut short are noticed too.
private struct ChecksummedFile {
  let descriptor: Int32
  private var crc: UInt32 = 0
  private var offset = 0
  private var block: [UInt8] = []

  init(descriptor: Int32) { self.descriptor = descriptor }

  mutating func append<Number: FixedWidthInteger>(_ number: Number) {
    withUnsafeBytes(of: number.bigEndian) { block.append(contentsOf: $0) }
  }

  /// False with errno.
  mutating func endBlock() -> Bool {
    crc = block.withUnsafeBytes { longhaul_crc32c(crc, $0.baseAddress, $0.count) }
    append(crc)
    let isWritten = block.withUnsafeBytes { FileOctets.write(descriptor, $0, at: offset) }
    offset += block.count
    block.removeAll(keepingCapacity: true)
    return isWritten
  }

  func peekNumber() -> UInt32? {
    var number: UInt32 = 0
    let count = withUnsafeMutableBytes(of: &number) { FileOctets.read(descriptor, into: $0, at: offset) }
    return count == 4 ? UInt32(bigEndian: number) : nil
  }

  /// The next block of this size, if it is whole and right.
  mutating func block(octets: Int) -> [UInt8]? {
    var bytes = [UInt8](repeating: 0, count: octets + 4)
    guard bytes.withUnsafeMutableBytes({ FileOctets.read(descriptor, into: $0, at: offset) }) == bytes.count else { return nil }
    crc = bytes.withUnsafeBytes { longhaul_crc32c(crc, $0.baseAddress, octets) }
    guard bytes.number(UInt32.self, at: octets) == crc else { return nil }
    offset += bytes.count
    return bytes
  }
}

extension [UInt8] {
  fileprivate func number<Number: FixedWidthInteger>(_ type: Number.Type, at offset: Int) -> Number {
    withUnsafeBytes { $0.number(at: offset, type) }
  }
}
