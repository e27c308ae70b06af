import Foundation
import LinuxNetwork
import Testing

/// A small file system in memory, for one test. Needs root.
final class TemporaryDisk: Sendable {
  static var isAllowed: Bool { geteuid() == 0 && (try? TemporaryDisk(octets: 1 << 20)) != nil }

  let path: String

  init(octets: Int) throws {
    path = FileManager.default.temporaryDirectory.appendingPathComponent("chunks-disk-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: false)
    guard mount("none", path, "tmpfs", 0, "size=\(octets)") == 0 else {
      try? FileManager.default.removeItem(atPath: path)
      throw POSIXError(.init(rawValue: errno) ?? .EIO)
    }
  }

  deinit {
    umount2(path, Int32(MNT_DETACH))
    try? FileManager.default.removeItem(atPath: path)
  }
}

/// The program `StoreProbe` beside the tests' own.
enum StoreProgram {
  static var path: String? {
    let own = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
    let path = URL(fileURLWithPath: own).deletingLastPathComponent().appendingPathComponent("StoreProbe").path
    return FileManager.default.isExecutableFile(atPath: path) ? path : nil
  }

  /// Kills it after so many lines. How many chunks were on disk at the last of them.
  static func writeAndKill(_ program: String, folder: String, capacity: Int, first: Int, lines: Int) throws -> Int {
    let pipe = try Program.pipe()
    defer { close(pipe.read) }
    let nothing = open("/dev/null", O_RDWR | O_CLOEXEC)
    let pid = try Program.start([program, "write", folder, "\(capacity)", "\(first)"], input: nothing, output: pipe.write, errors: nothing)
    close(nothing)
    close(pipe.write)
    defer {
      kill(pid, SIGKILL)
      _ = Program.reap(pid)
    }
    var seen = 0
    var written = first
    var text = ""
    while seen < lines {
      text += String(decoding: try #require(Program.readSome(pipe.read), "StoreProbe ended by itself"), as: UTF8.self)
      while let end = text.firstIndex(of: "\n") {
        written = try #require(Int(text[..<end]))
        text = String(text[text.index(after: end)...])
        seen += 1
      }
    }
    return written
  }
}
