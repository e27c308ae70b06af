import Foundation
import Synchronization

/// Why these tests do not run here, if they do not.
enum Usrsctp {
  /// The peer's program, built once for all tests; an error in words if it cannot be built.
  static let program: Result<String, Missing> = {
    let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
    let out = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-usrsctp-\(getpid())").path
    let build = Process()
    build.executableURL = folder.appendingPathComponent("build-peer.sh")
    build.arguments = [out]
    let words = Pipe()
    build.standardError = words
    do { try build.run() } catch { return .failure(Missing(what: "build-peer.sh does not start: \(error)")) }
    let text = String(decoding: words.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
    build.waitUntilExit()
    return build.terminationStatus == 0
      ? .success(out + "/usrsctp-peer") : .failure(Missing(what: text, isLibrary: build.terminationStatus == 77))
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

  private let process = Process()
  let lines: AsyncStream<String>
  private let ended: AsyncStream<Int32>
  private let words = Mutex("")

  init(_ arguments: [String]) throws {
    process.executableURL = URL(fileURLWithPath: try Usrsctp.program.get())
    process.arguments = arguments
    let output = Pipe()
    let errors = Pipe()
    process.standardOutput = output
    process.standardError = errors
    let (lines, lineSource) = AsyncStream.makeStream(of: String.self)
    let (ended, endSource) = AsyncStream.makeStream(of: Int32.self)
    self.lines = lines
    self.ended = ended
    process.terminationHandler = { process in
      endSource.yield(process.terminationStatus)
      endSource.finish()
    }
    try process.run()
    let reader = output.fileHandleForReading
    Thread.detachNewThread {
      var text = ""
      while case let data = reader.availableData, !data.isEmpty {
        text += String(decoding: data, as: UTF8.self)
        while let end = text.firstIndex(of: "\n") {
          lineSource.yield(String(text[..<end]))
          text = String(text[text.index(after: end)...])
        }
      }
      lineSource.finish()
    }
    let complaints = errors.fileHandleForReading
    Thread.detachNewThread { [self] in
      let text = String(decoding: complaints.readDataToEndOfFile(), as: UTF8.self)
      words.withLock { $0 = text }
    }
    let process = process
    DispatchQueue.global().asyncAfter(deadline: .now() + Self.limit) { Peer.end(process) }
  }

  /// True once the line has come; false if the program ended without it.
  func waitFor(_ wanted: String) async -> Bool {
    for await line in lines where line.hasPrefix(wanted) { return true }
    return false
  }

  func status() async -> Int32 {
    for await status in ended { return status }
    return -1
  }

  var complaints: String { words.withLock { $0 } }
  func stop() { Peer.end(process) }

  /// One whose peer has another key waits for ever for usrsctp to finish, and does not heed SIGTERM meanwhile.
  private static func end(_ process: Process) {
    if process.isRunning { kill(process.processIdentifier, SIGKILL) }
  }
}
