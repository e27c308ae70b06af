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
    /// Set as soon as the process is no more; its pid may be another's then.
    var reaped: Int32?
    /// Set when its last words have been read, too.
    var status: Int32?
  }

  let name: String
  let pid: pid_t
  /// The writing end of its standard input.
  private let input: Int32
  private let state = Mutex(State())
  private let gone = DispatchGroup()

  /// Starts it. `onLine` hears each line of its standard output and error, on a thread of its own.
  ///
  /// - Parameter output: where its standard output goes instead.
  init(_ name: String, _ command: [String], log: String, output: Int32? = nil, onLine: (@Sendable (String) -> Void)? = nil) throws(LabError)
  {
    self.name = name
    let logDescriptor = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard logDescriptor >= 0 else {
      throw .partFailed(name, what: "could not be started: its log \(log) cannot be written", log: [])
    }
    let lines: (read: Int32, write: Int32)
    do {
      let source = try Program.pipe()
      input = source.write
      lines = try Program.pipe()
      defer { for descriptor in [source.read, lines.write] { close(descriptor) } }
      pid = try Program.start(command, input: source.read, output: output ?? lines.write, errors: lines.write)
    } catch {
      throw .partFailed(name, what: "could not be started: \(error)", log: [])
    }
    for _ in 0..<2 { gone.enter() }  // until it has ended, and until its last words have been read
    Thread.detachNewThread { [self] in
      read(lines.read, into: logDescriptor, onLine)
      gone.leave()
    }
    Thread.detachNewThread { [self] in
      Program.waitForEnd(of: pid)
      state.withLock { $0.reaped = Program.reap(pid) }
      gone.leave()
    }
    gone.notify(queue: .global()) { [self] in ended() }
  }

  deinit { close(input) }

  private func read(_ descriptor: Int32, into log: Int32, _ onLine: (@Sendable (String) -> Void)?) {
    var partial: [UInt8] = []
    while let octets = Program.readSome(descriptor) {
      _ = write(log, octets, octets.count)
      partial += octets
      while let end = partial.firstIndex(of: UInt8(ascii: "\n")) {
        let line = String(decoding: partial[..<end], as: UTF8.self).trimmingCharacters(in: .controlCharacters)
        partial.removeSubrange(...end)
        onLine?(line)
        take(line)
      }
    }
    close(log)
    close(descriptor)
  }

  var isRunning: Bool { state.withLock { $0.status == nil } }
  /// The exit status, or 128 + the signal that ended it; nil while it runs.
  var status: Int32? { state.withLock { $0.status } }
  /// The lines that have this in them, as far as they are remembered.
  func lines(with text: String) -> [String] { state.withLock { $0.lines.filter { $0.contains(text) } } }

  var lastLines: [String] { state.withLock { Array($0.lines.suffix(5)) } }

  /// Writes a line to its standard input.
  func say(_ line: String) {
    let octets = Array((line + "\n").utf8)
    _ = write(input, octets, octets.count)
  }

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
    let (status, left) = state.withLock { state -> (Int32, [Waiter]) in
      let status = state.reaped ?? -1
      state.status = status
      defer { state.waiters = [:] }
      return (status, Array(state.waiters.values))
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
    state.withLock { if $0.reaped == nil { kill(pid, SIGKILL) } }
    _ = gone.wait(timeout: .now() + ChildProcess.patience.seconds)
  }
}
