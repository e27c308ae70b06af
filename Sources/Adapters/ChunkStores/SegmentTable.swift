import CStorage
import Synchronization

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// An open segment. It is closed when nobody reads it any more, though it may have been deleted before.
final class SegmentFile: Sendable {
  let number: UInt32
  let descriptor: Int32

  init(number: UInt32, descriptor: Int32) {
    self.number = number
    self.descriptor = descriptor
  }

  deinit { close(descriptor) }

  /// What the page cache can do for a reader that must not wait.
  enum Residence: Sendable {
    case disk
    /// Nothing ever waits.
    case memory
    /// The file system cannot say (RWF_NOWAIT is not known there): only the reading threads read.
    case unknown
  }

  /// Of a folder, by any file in it.
  static func residence(of descriptor: Int32) -> Residence {
    if longhaul_is_in_memory(descriptor) != 0 { return .memory }
    var octet: UInt8 = 0
    return longhaul_read_cached(descriptor, &octet, 1, 0) < 0 && errno == EOPNOTSUPP ? .unknown : .disk
  }

  /// How many octets there were; -1 with errno, EAGAIN where a disk would have to be waited for.
  func read(into memory: UnsafeMutableRawBufferPointer, at offset: Int, waiting: Bool, residence: Residence) -> Int {
    if waiting || residence == .memory { return FileOctets.read(descriptor, into: memory, at: offset) }
    guard residence == .disk else {
      errno = EAGAIN
      return -1
    }
    let count = longhaul_read_cached(descriptor, memory.baseAddress, memory.count, Int64(offset))
    guard count >= 0, count < memory.count else { return count }
    // The first pages are in memory and the others are not; or it is the file's end, which who waits will see.
    errno = EAGAIN
    return -1
  }
}

/// The segments that there are, in the order of their numbers. The writing thread changes it, everyone reads.
final class SegmentTable: Sendable {
  private struct Segments {
    var files: [UInt32: SegmentFile] = [:]
    var octets: [UInt32: Int] = [:]
    var order: [UInt32] = []
    var total = 0
  }

  private let segments = Mutex(Segments())

  func file(_ number: UInt32) -> SegmentFile? { segments.withLock { $0.files[number] } }
  /// Of all segments, on disk.
  var total: Int { segments.withLock { $0.total } }
  var oldest: UInt32? { segments.withLock { $0.order.first } }
  var numbers: [UInt32] { segments.withLock { $0.order } }
  func octets(of number: UInt32) -> Int { segments.withLock { $0.octets[number] ?? 0 } }

  /// Numbers grow.
  func add(_ file: SegmentFile, octets: Int) {
    segments.withLock { segments in
      segments.files[file.number] = file
      segments.octets[file.number] = octets
      segments.order.append(file.number)
      segments.total += octets
    }
  }

  func setOctets(_ octets: Int, of number: UInt32) {
    segments.withLock { segments in
      segments.total += octets - (segments.octets[number] ?? 0)
      segments.octets[number] = octets
    }
  }

  func remove(_ number: UInt32) {
    segments.withLock { segments in
      segments.files[number] = nil
      segments.total -= segments.octets.removeValue(forKey: number) ?? 0
      segments.order.removeAll { $0 == number }
    }
  }
}
