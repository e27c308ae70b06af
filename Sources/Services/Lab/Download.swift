import Foundation
import LinuxNetwork
import Synchronization
import Vocabulary

/// An FTP download by curl, as an application of the client's PC: its octets are looked at as they come out of curl.
package final class Download: Sendable {
  /// One read: how many octets it brought, and when, in seconds since the start.
  package struct Read: Sendable, Hashable {
    package var octets: Int
    package var seconds: Double

    package init(octets: Int, seconds: Double) {
      self.octets = octets
      self.seconds = seconds
    }
  }

  struct Outcome: Sendable {
    var verdict: DownloadAudit.Verdict
    var reads: [Read]
    /// Connections that curl made: one control and one data connection if none was opened again.
    var connections: Int
    var status: Int32
    var complaint: String
    var totalSeconds: Double
  }

  private struct State {
    var audit: DownloadAudit
    var reads: [Read] = []
    var octets = 0
  }

  /// A download that stands still for so long will not go on: the client looks for its machine after 5 s, and the controller gives a move 30 s.
  static let stallLimit = TimeSpan.seconds(90 as Int64)

  /// The number of octets so far, the newest only; it ends with the download.
  let progress: AsyncStream<Int>
  /// Of the wall clock, for what others have stamped.
  let startedAtMicroseconds: Int64
  private let started: ContinuousClock.Instant
  private let curl: ChildProcess
  private let state: Mutex<State>
  private let drained = DispatchGroup()

  /// Starts it at once.
  ///
  /// - Parameter proxy: the client's SOCKS5 entrance.
  init(of file: TestFile, name: String, proxy: String, folder: RunFolder) throws(LabError) {
    state = Mutex(State(audit: DownloadAudit(file)))
    let (progress, sink) = AsyncStream.makeStream(of: Int.self, bufferingPolicy: .bufferingNewest(1))
    self.progress = progress
    let pipe: (read: Int32, write: Int32)
    do { pipe = try Program.pipe() } catch { throw .downloadFailed("\(error)") }
    defer { close(pipe.write) }
    // Nothing of curl's own may wait: no buffer on its way out.
    let command = [
      "curl", "--silent", "--show-error", "--no-buffer", "--connect-timeout", "30", "--speed-limit", "1", "--speed-time",
      "\(Int(Download.stallLimit.seconds))", "--socks5-hostname", proxy, "--write-out",
      "%{stderr}connections %{num_connects}\\n", "ftp://vm/\(name)",
    ]
    started = .now
    startedAtMicroseconds = wallMicroseconds()
    curl = try ChildProcess("curl", Topology.pc.command(command), log: folder.file("curl.log"), output: pipe.write)
    let reader = pipe.read
    drained.enter()
    Thread.detachNewThread { [self] in
      while let octets = Program.readSome(reader, atMost: 256 << 10) {
        let moment = seconds
        let total = state.withLock { state -> Int in
          state.reads.append(Read(octets: octets.count, seconds: moment))
          state.audit.take(octets)
          state.octets += octets.count
          return state.octets
        }
        sink.yield(total)
      }
      close(reader)
      sink.finish()
      drained.leave()
    }
  }

  /// Since its start.
  var seconds: Double {
    let span = ContinuousClock.now - started
    return Double(span.components.seconds) + Double(span.components.attoseconds) / 1e18
  }

  var octets: Int { state.withLock { $0.octets } }
  var reads: [Read] { state.withLock { $0.reads } }

  /// Waits for its end.
  func finish(limit: TimeSpan) async throws -> Outcome {
    let status = try await curl.waitForEnd(limit: limit)
    await withCheckedContinuation { continuation in
      drained.notify(queue: .global()) { continuation.resume() }
    }
    let total = seconds
    let lines = curl.lastLines
    let connections = lines.compactMap { line -> Int? in
      line.hasPrefix("connections ") ? Int(line.dropFirst("connections ".count)) : nil
    }.last
    return state.withLock { state in
      Outcome(
        verdict: state.audit.finish(), reads: state.reads, connections: connections ?? 0, status: status,
        complaint: lines.filter { !$0.hasPrefix("connections ") }.joined(separator: " | "), totalSeconds: total)
    }
  }

  func stop() { curl.end() }
}

/// Of the wall clock, since 1970, for what is compared with the stamps of other programs of this machine.
func wallMicroseconds() -> Int64 {
  var now = timespec()
  clock_gettime(CLOCK_REALTIME, &now)
  return Int64(now.tv_sec) * 1_000_000 + Int64(now.tv_nsec) / 1_000
}
