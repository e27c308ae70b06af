import Foundation
import LinuxNetwork
import Synchronization
import Vocabulary

/// The application of the handover bench: `nc` on the client's PC, reading the source's stream without an end. Every octet is looked at as it comes; only gaps are kept.
final class BenchStream: Sendable {
  /// The longest time between two reads.
  struct Gap: Sendable, Hashable {
    var start: ContinuousClock.Instant
    var end: ContinuousClock.Instant
    var seconds: Double { BenchStream.seconds(end - start) }
  }

  private struct State {
    var audit: DownloadAudit
    var last = ContinuousClock.now
    var gap: Gap?
    /// When the first octet after `watch` came.
    var octets = 0
  }

  private let nc: ChildProcess
  private let state: Mutex<State>

  /// Starts it at once, through the client's static forward.
  init(_ settings: LabSettings, forward: Int, busybox: String, folder: RunFolder) throws(LabError) {
    state = Mutex(State(audit: DownloadAudit(BenchSource.file(settings.seed))))
    let pipe: (read: Int32, write: Int32)
    do { pipe = try Program.pipe() } catch { throw .downloadFailed("\(error)") }
    defer { close(pipe.write) }
    let command = Topology.pc.command([busybox, "nc", "127.0.0.1", "\(forward)"])
    nc = try ChildProcess("nc", command, log: folder.file("nc.log"), output: pipe.write)
    let reader = pipe.read
    Thread.detachNewThread { [self] in
      while let octets = Program.readSome(reader, atMost: 256 << 10) { take(octets) }
      close(reader)
    }
  }

  private func take(_ octets: [UInt8]) {
    let now = ContinuousClock.now
    state.withLock { state in
      if state.octets > 0, now - state.last > (state.gap.map { $0.end - $0.start } ?? .zero) {
        state.gap = Gap(start: state.last, end: now)
      }
      state.last = now
      state.octets += octets.count
      state.audit.take(octets)
    }
  }

  private static func seconds(_ span: Duration) -> Double {
    Double(span.components.seconds) + Double(span.components.attoseconds) / 1e18
  }

  /// The search for the longest gap begins anew. A gap that is going on counts from where it began.
  func watch() { state.withLock { $0.gap = nil } }
  var longestGap: Gap? { state.withLock { $0.gap } }
  var octets: Int { state.withLock { $0.octets } }
  var lost: Int { state.withLock { $0.audit.lost } }
  var duplicated: Int { state.withLock { $0.audit.duplicated } }
  var isAstray: Bool { state.withLock { $0.audit.isAstray } }

  /// Throws if the application has ended, which it never should.
  func check() throws(LabError) {
    guard nc.isRunning else {
      throw .downloadFailed("the application's connection ended: \(nc.lastLines.joined(separator: " | "))")
    }
  }

  func end() { nc.end() }
}
