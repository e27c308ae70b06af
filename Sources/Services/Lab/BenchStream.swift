import Foundation
import LinuxNetwork
import Synchronization
import Vocabulary

/// The application of the handover bench: `nc` on the client's PC, reading the source's stream without an end. Every octet is looked at as it comes; only gaps, and octets in bins of
/// 10 ms, are kept.
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
    var octets = 0
    /// Octets by bins of `binSeconds`, the newest last, since `begin`.
    var bins: [Int] = []
    var begin = ContinuousClock.now
  }

  static let binSeconds = 0.01
  /// Ten minutes of bins: the longest hold, 100 s, and a wait of a minute fit several times.
  private static let maximumBins = 60_000
  /// A rate is that of ten bins: at 5 Mbit/s and one piece a millisecond, a hundred pieces.
  private static let window = 10

  private let nc: ChildProcess
  private let state: Mutex<State>

  /// Starts it at once, through the client's static forward.
  convenience init(_ settings: LabSettings, forward: Int, busybox: String, folder: RunFolder, number: Int = 1) throws(LabError) {
    try self.init(
      seed: settings.seed, [busybox, "nc", "127.0.0.1", "\(forward)"], log: folder.file(number == 1 ? "nc.log" : "nc-\(number).log"))
  }

  /// - Parameter command: prints what the source sends; runs on the client's PC.
  init(seed: UInt64, _ command: [String], log: String) throws(LabError) {
    state = Mutex(State(audit: DownloadAudit(BenchSource.file(seed))))
    let pipe: (read: Int32, write: Int32)
    do { pipe = try Program.pipe() } catch { throw .downloadFailed("\(error)") }
    defer { close(pipe.write) }
    nc = try ChildProcess("the application", Topology.pc.command(command), log: log, output: pipe.write)
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
      let bin = Int(BenchStream.seconds(now - state.begin) / BenchStream.binSeconds)
      if bin < BenchStream.maximumBins {
        while state.bins.count <= bin { state.bins.append(0) }
        state.bins[bin] += octets.count
      }
      state.audit.take(octets)
    }
  }

  static func seconds(_ span: Duration) -> Double {
    Double(span.components.seconds) + Double(span.components.attoseconds) / 1e18
  }

  /// The search for the longest gap begins anew. A gap that is going on counts from where it began.
  func watch() { state.withLock { $0.gap = nil } }

  /// The bins begin anew.
  func sample() {
    state.withLock { state in
      state.bins = []
      state.begin = .now
    }
  }

  /// From `resumed` until the first 100 ms behind the gap in which nine tenths of the rate flow that flowed in the last second before `stopped`; nil if it was not seen.
  func recovery(stopped: ContinuousClock.Instant, resumed: ContinuousClock.Instant) -> TimeSpan? {
    let (bins, begin, gap) = state.withLock { ($0.bins, $0.begin, $0.gap) }
    func bin(_ at: ContinuousClock.Instant) -> Int { max(0, Int(BenchStream.seconds(at - begin) / BenchStream.binSeconds)) }
    let end = min(bin(stopped), bins.count)
    let before = bins[max(0, end - 100)..<end]
    guard before.count >= BenchStream.window else { return nil }
    let wanted = Double(before.reduce(0, +)) / Double(before.count) * Double(BenchStream.window) * 0.9
    // What was under way at STOP still flows a while after a short downtime.
    var first = bin(max(resumed, gap?.end ?? resumed))
    while first + BenchStream.window <= bins.count {
      if Double(bins[first..<first + BenchStream.window].reduce(0, +)) >= wanted {
        return .seconds(max(0, Double(first) * BenchStream.binSeconds - BenchStream.seconds(resumed - begin)))
      }
      first += 1
    }
    return nil
  }
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

  /// As long as the stream stands still; throws when the limit passes.
  func waitForFlow(limit: TimeSpan) async throws {
    let deadline = ContinuousClock.now + .seconds(limit.seconds)
    while true {
      let before = octets
      try await Task.sleep(for: .milliseconds(50))
      try check()
      if octets > before { return }
      guard ContinuousClock.now < deadline else {
        throw LabError.downloadFailed("the stream has stood still for \(limit.seconds) s after \(before) octets")
      }
    }
  }

  func end() { nc.end() }
}
