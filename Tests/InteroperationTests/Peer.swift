import Foundation
import LinuxNetwork
import Synchronization

/// Why these tests do not run here, if they do not.
enum Usrsctp {
  /// The peer's program, built once for all tests; an error in words if it cannot be built.
  static let program: Result<String, Missing> = {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    let out = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-usrsctp-\(getpid())").path
    do {
      try Shell.run([folder.appendingPathComponent("build-peer.sh").path, out])
      return .success(out + "/usrsctp-peer")
    } catch let error as CommandError {
      return .failure(Missing(what: error.complaint, isLibrary: error.status == 77))
    } catch {
      return .failure(Missing(what: "\(error)"))
    }
  }()

  struct Missing: Error {
    var what: String
    var isLibrary = false
  }

  /// False only where the library is not installed; a peer that does not compile is a failure, not a reason to skip.
  static var isInstalled: Bool {
    if case .failure(let missing) = program { return !missing.isLibrary }
    return true
  }
}

/// One run of the peer. It is killed when its time is over, so that a test that waits for it fails and does not hang.
final class Peer: Sendable {
  /// A run takes one to twenty seconds with losses; the machine may be busy.
  static let limit = DispatchTimeInterval.seconds(120)

  let lines: AsyncStream<String>
  private let ended: AsyncStream<Int32>
  private let words = Mutex("")
  /// Nil once it has been taken away: its pid may be another's then.
  private let running: Mutex<pid_t?>
  private let input: Int32

  /// - Parameter namespace: where it runs; this process's own if nil.
  init(_ arguments: [String], in namespace: Namespace? = nil) throws {
    let words = [try Usrsctp.program.get()] + arguments
    let source = try Program.pipe()
    let output = try Program.pipe()
    let errors = try Program.pipe()
    defer { for descriptor in [source.read, output.write, errors.write] { close(descriptor) } }
    input = source.write
    let pid = try Program.start(namespace?.command(words) ?? words, input: source.read, output: output.write, errors: errors.write)
    running = Mutex(pid)
    let (lines, lineSource) = AsyncStream.makeStream(of: String.self)
    let (ended, endSource) = AsyncStream.makeStream(of: Int32.self)
    self.lines = lines
    self.ended = ended
    Thread.detachNewThread {
      Peer.read(output.read) { lineSource.yield($0) }
      lineSource.finish()
    }
    Thread.detachNewThread { [self] in
      Peer.read(errors.read) { line in self.words.withLock { $0 += line + "\n" } }
    }
    Thread.detachNewThread { [self] in
      Program.waitForEnd(of: pid)
      endSource.yield(
        running.withLock { running in
          running = nil
          return Program.reap(pid)
        })
      endSource.finish()
    }
    DispatchQueue.global().asyncAfter(deadline: .now() + Self.limit) { [weak self] in self?.stop() }
  }

  deinit { close(input) }

  private static func read(_ descriptor: Int32, _ take: (String) -> Void) {
    var partial: [UInt8] = []
    while let octets = Program.readSome(descriptor) {
      partial += octets
      while let end = partial.firstIndex(of: UInt8(ascii: "\n")) {
        take(String(decoding: partial[..<end], as: UTF8.self))
        partial.removeSubrange(...end)
      }
    }
    close(descriptor)
  }

  /// The next line that begins so; nil if the program ended without it.
  func line(_ wanted: String) async -> String? {
    for await line in lines where line.hasPrefix(wanted) { return line }
    return nil
  }

  func status() async -> Int32 {
    for await status in ended { return status }
    return -1
  }

  /// Gives it a command, and waits until it was carried out; its answer if it was not.
  func tell(_ command: String) async -> String? {
    let octets = Array((command + "\n").utf8)
    _ = write(input, octets, octets.count)
    let words = command.prefix { $0 != " " }
    for await line in lines where line.hasPrefix("done \(words)") || line.hasPrefix("failed \(words)") {
      return line.hasPrefix("done") ? nil : line
    }
    return "the peer ended"
  }

  var complaints: String { words.withLock { $0 } }

  /// One whose peer has another key waits for ever for usrsctp to finish, and does not heed SIGTERM meanwhile.
  func stop() {
    running.withLock { pid in
      if let pid { _ = kill(pid, SIGKILL) }
    }
  }
}
