import CChecksum
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The folder of a store on disk, held by one process at a time.
///
///     format       what it is, the store's identity and key: written once, and flushed
///     lock         flock(2) while a process has it open
///     segment-*    the records, numbered in hexadecimal
///     checkpoint   the index, as it was a while ago
///     peers        whom the bits of the beliefs stand for
///
/// The files are for their owner alone: they hold what has gone by.
final class StoreFolder: Sendable {
  static let format = "longhaul chunk store, format 1"
  private static let smallFile = 64 << 10

  let path: String
  let identity: UInt64
  let key: RecordKey
  private let lock: Int32

  /// Makes it where there is none.
  init(_ path: String) throws(ChunkStoreError) {
    self.path = path
    if mkdir(path, 0o700) != 0, errno != EEXIST { throw .folder(path: path, doing: "make it", why: ChunkStoreError.systemWords) }
    let lock = open("\(path)/lock", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard lock >= 0 else { throw .folder(path: path, doing: "write to it", why: ChunkStoreError.systemWords) }
    do throws(ChunkStoreError) {
      if flock(lock, LOCK_EX | LOCK_NB) != 0 {
        if errno == EWOULDBLOCK { throw .inUse(path: path) }
        throw .folder(path: path, doing: "lock it", why: ChunkStoreError.systemWords)
      }
      if let found = try StoreFolder.readFormat(path) {
        (identity, key) = found
      } else {
        (identity, key) = try StoreFolder.makeFormat(path)
      }
    } catch {
      close(lock)
      throw error
    }
    self.lock = lock
  }

  deinit { close(lock) }  // which unlocks

  /// Another may open it now.
  func release() { flock(lock, LOCK_UN) }

  var residence: SegmentFile.Residence { SegmentFile.residence(of: lock) }

  func segmentPath(_ number: UInt32) -> String {
    let digits = String(number, radix: 16)
    return "\(path)/segment-\(String(repeating: "0", count: 8 - digits.count))\(digits)"
  }

  var checkpointPath: String { "\(path)/checkpoint" }
  var peersPath: String { "\(path)/peers" }

  /// The numbers of the segments that are there, ascending.
  func segments() throws(ChunkStoreError) -> [UInt32] {
    try StoreFolder.files(path).compactMap { name in
      name.count == 16 && name.hasPrefix("segment-") ? UInt32(name.dropFirst(8), radix: 16) : nil
    }.sorted()
  }

  // MARK: Small files

  /// Nil where there is none.
  static func read(_ path: String) -> [UInt8]? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: smallFile)
    let count = bytes.withUnsafeMutableBytes { FileOctets.read(descriptor, into: $0, at: 0) }
    guard count >= 0 else { return nil }
    return Array(bytes[..<count])
  }

  /// A reader sees the old file or the new one. Flushed only where a power failure must not leave an empty one: everything else is made again from the segments.
  static func write(_ text: String, to path: String, isFlushed: Bool) -> Bool {
    let draft = "\(path).new"
    let descriptor = open(draft, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { return false }
    let isWhole = Array(text.utf8).withUnsafeBytes { FileOctets.write(descriptor, $0, at: 0) } && (!isFlushed || fsync(descriptor) == 0)
    close(descriptor)
    guard isWhole, rename(draft, path) == 0 else {
      unlink(draft)
      return false
    }
    return true
  }

  private static func readFormat(_ path: String) throws(ChunkStoreError) -> (UInt64, RecordKey)? {
    guard let bytes = read("\(path)/format") else {
      if errno != ENOENT { throw .folder(path: path, doing: "read its file \"format\"", why: ChunkStoreError.systemWords) }
      return nil
    }
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n").map(String.init)
    guard lines.first == format else { throw .format(path: path, found: String(lines.first?.prefix(80) ?? "")) }
    guard lines.count == 3, let identity = UInt64(lines[1], radix: 16), lines[2].count == 2 * RecordKey.octets else {
      throw .format(path: path, found: "a damaged file \"format\"")
    }
    let digits = Array(lines[2])
    let key = stride(from: 0, to: digits.count, by: 2).compactMap { UInt8(String(digits[$0...$0 + 1]), radix: 16) }
    guard key.count == RecordKey.octets else { throw .format(path: path, found: "a damaged file \"format\"") }
    return (identity, RecordKey(key))
  }

  private static func makeFormat(_ path: String) throws(ChunkStoreError) -> (UInt64, RecordKey) {
    // What a file system's own root has, and what we left ourselves when we were killed here.
    let ours: Set<String> = ["lock", "lost+found", "format.new"]
    if let other = try files(path).first(where: { !ours.contains($0) }) { throw .foreign(path: path, file: other) }
    let identity = UInt64.random(in: 1 ... .max)
    let key = (0..<RecordKey.octets).map { _ in UInt8.random(in: 0 ... .max) }
    let digits = key.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
    guard write("\(format)\n\(String(identity, radix: 16))\n\(digits)\n", to: "\(path)/format", isFlushed: true) else {
      throw .folder(path: path, doing: "write to it", why: ChunkStoreError.systemWords)
    }
    return (identity, RecordKey(key))
  }

  private static func files(_ path: String) throws(ChunkStoreError) -> [String] {
    guard let folder = opendir(path) else { throw .folder(path: path, doing: "list it", why: ChunkStoreError.systemWords) }
    defer { closedir(folder) }
    var names: [String] = []
    while let entry = readdir(folder) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names
  }
}

/// Whole reads and writes at a place in a file.
enum FileOctets {
  /// How many there were before the file's end; -1 with errno.
  static func read(_ descriptor: Int32, into memory: UnsafeMutableRawBufferPointer, at offset: Int) -> Int {
    var done = 0
    while done < memory.count {
      let count = pread(descriptor, memory.baseAddress.map { $0 + done }, memory.count - done, off_t(offset + done))
      if count < 0, errno == EINTR { continue }
      if count < 0 { return -1 }
      if count == 0 { break }
      done += count
    }
    return done
  }

  /// False with errno.
  static func write(_ descriptor: Int32, _ memory: UnsafeRawBufferPointer, at offset: Int) -> Bool {
    var done = 0
    while done < memory.count {
      let count = pwrite(descriptor, memory.baseAddress.map { $0 + done }, memory.count - done, off_t(offset + done))
      if count < 0, errno == EINTR { continue }
      if count <= 0 { return false }
      done += count
    }
    return true
  }
}
