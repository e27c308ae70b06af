import Foundation
import LinuxNetwork
import Synchronization
import Vocabulary

/// A program that runs beside the lab: its output goes line by line to a log, and can be waited for.
final class ChildProcess: Sendable {
  /// Lines that are remembered, for waits that come after them and for last words. A node's start makes about ten.
  private static let maximumLines = 4_096
  /// What the kernel may need to take a killed process away; one that waits for a disk longer is left to it.
  private static let patience = TimeSpan.seconds(3 as Int64)

  private struct Waiter {
    var isMatch: @Sendable (String) -> Bool
    var resume: @Sendable (Result<String, Ended>) -> Void
  }

  private struct Ended: Error {
    var what: String
  }

  private struct State {
    var lines: [String] = []
    var waiters: [UUID: Waiter] = [:]
    var status: Int32?
  }

  let name: String
  private let process = Process()
  private let input = Pipe()
  private let state = Mutex(State())
  private let gone = DispatchGroup()

  /// Starts it. `onLine` hears each line of its standard output and error, on a thread of its own.
  init(
    _ name: String, _ command: [String], log: String, output: FileHandle? = nil, onLine: (@Sendable (String) -> Void)? = nil
  ) throws(LabError) {
    self.name = name
    let lines = Pipe()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = command
    process.standardInput = input
    process.standardError = lines
    process.standardOutput = output ?? lines.fileHandleForWriting
    guard FileManager.default.createFile(atPath: log, contents: nil, attributes: [.posixPermissions: 0o600]) else {
      throw .partFailed(name, what: "could not be started: its log \(log) cannot be written", log: [])
    }
    let writer = FileHandle(forWritingAtPath: log)
    gone.enter()  // until it has terminated
    process.terminationHandler = { [gone] _ in gone.leave() }
    gone.enter()  // until its last words have been read
    do {
      try process.run()
    } catch {
      for _ in 0..<2 { gone.leave() }
      throw .partFailed(name, what: "could not be started: \(error)", log: [])
    }
    try? lines.fileHandleForWriting.close()
    let reader = lines.fileHandleForReading
    Thread.detachNewThread { [self] in
      var partial = Data()
      while let data = ChildProcess.readSome(reader.fileDescriptor) {
        try? writer?.write(contentsOf: data)
        partial.append(data)
        while let end = partial.firstIndex(of: UInt8(ascii: "\n")) {
          let line = String(decoding: partial[partial.startIndex..<end], as: UTF8.self).trimmingCharacters(in: .controlCharacters)
          partial = Data(partial[(end + 1)...])
          onLine?(line)
          take(line)
        }
      }
      gone.leave()
    }
    gone.notify(queue: .global()) { [self] in ended() }
  }

  /// What there is, as soon as there is something (`FileHandle` would wait for more); nil at the end.
  private static func readSome(_ descriptor: Int32) -> Data? {
    var buffer = [UInt8](repeating: 0, count: 65_536)
    while true {
      let count = read(descriptor, &buffer, buffer.count)
      if count < 0, errno == EINTR { continue }
      return count > 0 ? Data(buffer[..<count]) : nil
    }
  }

  var pid: pid_t { process.processIdentifier }
  var isRunning: Bool { state.withLock { $0.status == nil } }
  /// The exit status, or 128 + the signal that ended it; nil while it runs.
  var status: Int32? { state.withLock { $0.status } }
  var lastLines: [String] { state.withLock { Array($0.lines.suffix(5)) } }

  /// Writes a line to its standard input.
  func say(_ line: String) { try? input.fileHandleForWriting.write(contentsOf: Data((line + "\n").utf8)) }

  private func take(_ line: String) {
    let met = state.withLock { state -> [Waiter] in
      state.lines.append(line)
      if state.lines.count > ChildProcess.maximumLines { state.lines.removeFirst(ChildProcess.maximumLines / 2) }
      let met = state.waiters.filter { $0.value.isMatch(line) }
      for id in met.keys { state.waiters[id] = nil }
      return Array(met.values)
    }
    for waiter in met { waiter.resume(.success(line)) }
  }

  private func ended() {
    let status = process.terminationReason == .exit ? process.terminationStatus : 128 + process.terminationStatus
    let left = state.withLock { state -> [Waiter] in
      state.status = status
      defer { state.waiters = [:] }
      return Array(state.waiters.values)
    }
    for waiter in left { waiter.resume(.failure(Ended(what: "ended with status \(status)"))) }
  }

  private func giveUp(_ id: UUID, _ what: String) {
    let waiter = state.withLock { $0.waiters.removeValue(forKey: id) }
    waiter?.resume(.failure(Ended(what: what)))
  }

  /// Waits for a line that contains the text; also one that has come already counts. A line that contains `failure` ends the wait.
  func waitForLine(_ text: String, unless failure: String? = nil, limit: TimeSpan) async throws {
    let line = try await wait(limit: limit, what: "did not say \"\(text)\"") { line in
      line.contains(text) || failure.map { line.contains($0) } == true
    }
    if let failure, line.contains(failure) { throw LabError.partFailed(name, what: "failed", log: lastLines) }
  }

  /// Waits for its end, and gives its status.
  func waitForEnd(limit: TimeSpan) async throws -> Int32 {
    _ = try? await wait(limit: limit, what: "did not end") { _ in false }
    try Task.checkCancellation()
    guard let status else { throw LabError.partFailed(name, what: "did not end within \(limit.seconds) s", log: lastLines) }
    return status
  }

  private func wait(limit: TimeSpan, what: String, isMatch: @escaping @Sendable (String) -> Bool) async throws -> String {
    let id = UUID()
    do {
      return try await withTaskCancellationHandler {
        try await withCheckedThrowingContinuation { continuation in
          let waiter = Waiter(isMatch: isMatch) { continuation.resume(with: $0) }
          let known = state.withLock { state -> Result<String, Ended>? in
            if let line = state.lines.first(where: isMatch) { return .success(line) }
            if let status = state.status { return .failure(Ended(what: "ended with status \(status)")) }
            if Task.isCancelled { return .failure(Ended(what: "was not waited for")) }
            state.waiters[id] = waiter
            return nil
          }
          if let known { return continuation.resume(with: known) }
          DispatchQueue.global().asyncAfter(deadline: .now() + limit.seconds) { [weak self] in
            self?.giveUp(id, "\(what) within \(limit.seconds) s")
          }
        }
      } onCancel: {
        giveUp(id, "was not waited for")
      }
    } catch let ended as Ended {
      try Task.checkCancellation()
      throw LabError.partFailed(name, what: ended.what, log: lastLines)
    }
  }

  /// Ends it at once. Works in a cancelled task too: nothing is awaited.
  func end() {
    guard isRunning else { return }
    kill(pid, SIGKILL)
    _ = gone.wait(timeout: .now() + ChildProcess.patience.seconds)
  }
}
