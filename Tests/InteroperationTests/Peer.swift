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
  /// A run takes one to ten seconds with losses; the machine may be busy.
  static let limit = DispatchTimeInterval.seconds(60)

  /// Rings for each line that has come.
  private let bell: AsyncStream<Void>
  private let ended: AsyncStream<Int32>
  private let words = Mutex("")
  private let all = Mutex([String]())
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
    let (bell, ringer) = AsyncStream.makeStream(of: Void.self)
    let (ended, endSource) = AsyncStream.makeStream(of: Int32.self)
    self.bell = bell
    self.ended = ended
    Thread.detachNewThread { [self] in
      Peer.read(output.read) { line in
        all.withLock { $0.append(line) }
        ringer.yield()
      }
      ringer.finish()
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

  /// A line that begins so, one that has come already too; nil if the program ended without it.
  func line(_ wanted: String...) async -> String? { await line(wanted, after: 0) }

  private func line(_ wanted: [String], after start: Int) async -> String? {
    while true {
      if let found = said[start...].first(where: { line in wanted.contains { line.hasPrefix($0) } }) { return found }
      var rings = bell.makeAsyncIterator()
      guard await rings.next() != nil else { return said[start...].first { line in wanted.contains { line.hasPrefix($0) } } }
    }
  }

  func status() async -> Int32 {
    for await status in ended { return status }
    return -1
  }

  /// Gives it a command, and waits until it was carried out; its answer if it was not.
  func tell(_ command: String) async -> String? {
    let start = said.count
    let octets = Array((command + "\n").utf8)
    _ = write(input, octets, octets.count)
    let words = command.prefix { $0 != " " }
    guard let answer = await line(["done \(words)", "failed \(words)"], after: start) else { return "the peer ended" }
    return answer.hasPrefix("done") ? nil : answer
  }

  var said: [String] { all.withLock { $0 } }
  var complaints: String { words.withLock { $0 } }

  /// One whose peer has another key waits for ever for usrsctp to finish, and does not heed SIGTERM meanwhile.
  func stop() {
    running.withLock { pid in
      if let pid { _ = kill(pid, SIGKILL) }
    }
  }
}
