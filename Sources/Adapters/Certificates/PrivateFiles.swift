import Crypto

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif
#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Files of keys, certificates and the CA: read whole and bounded, written whole or not at all.
enum PrivateFiles {
  /// A chain of 16 certificates of 1 KiB each, in PEM; and a list of some 600 revocations.
  static let certificateOctets = 64 << 10
  static let privateMode: mode_t = 0o600
  static let publicMode: mode_t = 0o644

  /// `isSecret`: refused if others than the owner may do anything with it.
  static func read(_ path: String, limit: Int = certificateOctets, isSecret: Bool = false) throws(CertificateError) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .unreadable(path: path, why: systemWords()) }
    defer { close(descriptor) }
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw .unreadable(path: path, why: systemWords()) }
    guard status.st_mode & S_IFMT == S_IFREG else { throw .unreadable(path: path, why: "not a file") }
    if isSecret, status.st_mode & 0o077 != 0 { throw .exposed(path: path, mode: status.st_mode & 0o7777) }
    guard status.st_size <= limit else { throw .content(path: path, why: "larger than the \(limit) octets that such a file may have") }
    var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
    var filled = 0
    while filled < bytes.count {
      let count = bytes.withUnsafeMutableBytes { systemRead(descriptor, $0.baseAddress.map { $0 + filled }, $0.count - filled) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { break }
      filled += count
    }
    return Array(bytes[..<filled])
  }

  static func readText(_ path: String, limit: Int = certificateOctets, isSecret: Bool = false) throws(CertificateError) -> String {
    let bytes = try read(path, limit: limit, isSecret: isSecret)
    guard let text = String(validating: bytes, as: UTF8.self) else { throw .content(path: path, why: "not a text") }
    return text
  }

  static func readKey(_ path: String) throws(CertificateError) -> P256.Signing.PrivateKey {
    let text = try readText(path, isSecret: true)
    guard let key = try? P256.Signing.PrivateKey(pemRepresentation: text) else {
      throw .content(path: path, why: "not a P-256 private key in PEM (PKCS #8)")
    }
    return key
  }

  static func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

  /// Everything or nothing: beside the place, flushed, then renamed into it. A reader sees the old file or the new one. The caller holds the folder's lock: a
  /// draft that is there already was left by a program that was killed.
  static func write(_ bytes: some Sequence<UInt8>, to path: String, mode: mode_t) throws(CertificateError) {
    let draft = "\(path).new"
    unlink(draft)
    // O_EXCL: nobody has put a link there; the mode holds from the first moment, whatever the umask adds to it.
    let descriptor = open(draft, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode)
    guard descriptor >= 0 else { throw .unwritable(path: path, why: systemWords()) }
    let bytes = Array(bytes)
    var written = 0
    while written < bytes.count {
      let count = bytes.withUnsafeBytes { systemWrite(descriptor, $0.baseAddress.map { $0 + written }, $0.count - written) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { break }
      written += count
    }
    let isWhole = written == bytes.count && fchmod(descriptor, mode) == 0 && fsync(descriptor) == 0
    let why = systemWords()
    close(descriptor)
    guard isWhole else {
      unlink(draft)
      throw .unwritable(path: path, why: why)
    }
    try move(draft, to: path)
  }

  /// Renames, and lets the folder reach the disk: a revocation must not be undone by a power failure.
  static func move(_ source: String, to path: String) throws(CertificateError) {
    guard rename(source, path) == 0 else { throw .unwritable(path: path, why: systemWords()) }
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "."
    let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard descriptor >= 0 else { throw .unwritable(path: path, why: systemWords()) }
    defer { close(descriptor) }
    guard fsync(descriptor) == 0 else { throw .unwritable(path: path, why: systemWords()) }
  }

  /// Makes the folder if it is not there, for its owner alone.
  static func makeFolder(_ path: String) throws(CertificateError) {
    if mkdir(path, 0o700) == 0 || errno == EEXIST { return }
    guard errno == ENOENT else { throw .unwritable(path: path, why: systemWords()) }
    guard let slash = path.lastIndex(of: "/"), slash > path.startIndex else { throw .unwritable(path: path, why: systemWords()) }
    try makeFolder(String(path[..<slash]))
    guard mkdir(path, 0o700) == 0 || errno == EEXIST else { throw .unwritable(path: path, why: systemWords()) }
  }

  /// Runs `body` while no other process, and no other thread of this one, holds the lock; waits for its turn, which comes: the system unlocks for a process that
  /// ends, and nobody waits for anything else while holding it.
  static func locked<Result>(_ path: String, _ body: () throws(CertificateError) -> Result) throws(CertificateError) -> Result {
    let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, privateMode)
    guard descriptor >= 0 else { throw .unwritable(path: path, why: systemWords()) }
    defer { close(descriptor) }  // which unlocks
    while flock(descriptor, LOCK_EX) != 0 {
      guard errno == EINTR else { throw .unwritable(path: path, why: systemWords()) }
    }
    return try body()
  }

  /// What tells one state of a file from another without reading it: its inode, size and time of change. Nil if there is none.
  static func stamp(_ path: String) -> FileStamp? {
    var status = stat()
    guard stat(path, &status) == 0 else { return nil }
    return FileStamp(
      inode: UInt64(status.st_ino), octets: Int64(status.st_size), seconds: Int64(status.st_mtim.tv_sec),
      nanoseconds: Int64(status.st_mtim.tv_nsec))
  }

  private static func systemWords() -> String { String(cString: strerror(errno)) }
}

struct FileStamp: Hashable, Sendable {
  var inode: UInt64
  var octets: Int64
  var seconds: Int64
  var nanoseconds: Int64
}

// The names are taken by methods above.
private func systemRead(_ descriptor: Int32, _ bytes: UnsafeMutableRawPointer?, _ count: Int) -> Int { read(descriptor, bytes, count) }
private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int { write(descriptor, bytes, count) }
