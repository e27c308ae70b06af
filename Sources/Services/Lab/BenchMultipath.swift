import Foundation
import LinuxNetwork
import Vocabulary

/// The same moves with what Linux itself has: MPTCP (RFC 8684). The machine's future address is announced at PREPARE (ADD_ADDR, `ip mptcp endpoint add ... signal`), and the old link is cut at FREEZE.
///
/// Each move has a connection of its own, since what an earlier one has left (paths that are down, timers) would count.
struct BenchMultipath: Sendable {
  private static let port = 9_001
  /// From the connection's beginning until the stream flows steadily: its slow start, as long as a Longhaul session's.
  private static let settling = TimeSpan.seconds(1 as Int64)
  private static let readyLimit = TimeSpan.seconds(20 as Int64)

  let settings: BenchSettings
  let lab: LabSettings
  let prerequisites: Prerequisites
  let folder: RunFolder
  let progress: RunProgress

  /// For each move the interruption minus the downtime in milliseconds; nil where none was seen within the limit.
  func measure(_ machine: BenchMachine, from start: BenchMachine.Place, to end: BenchMachine.Place) async throws -> [Double?] {
    guard settings.multipathMoves > 0 else { return [] }
    for space in [Topology.pc, BenchMachine.space] {
      try space.set(["net.mptcp.enabled": "1"])
      try Shell.run(["ip", "-n", space.name, "mptcp", "limits", "set", "subflow", "8", "add_addr_accepted", "8"])
    }
    let source = try machine.start(
      "mptcp source",
      [
        prerequisites.program, "lab", "source", "--mptcp", "--listen", "0.0.0.0:\(BenchMultipath.port)", "--rate",
        "\(settings.sourceRate.megabitsPerSecond)", "--tick-ms", "\(settings.tick.milliseconds)", "--seed", "\(settings.seed)",
      ], log: folder.file("mptcp-source.log"))
    try await source.waitForLine("source ready", limit: BenchMultipath.readyLimit)
    var results: [Double?] = []
    var (here, there) = (start, end)
    for number in 1...settings.multipathMoves {
      let result = try await move(machine, from: here, to: there)
      progress.step("MPTCP \(number). to \(there.site): \(result.map { String(format: "%.1f ms", $0) } ?? "none")")
      results.append(result)
      swap(&here, &there)
    }
    return results
  }

  private func move(_ machine: BenchMachine, from here: BenchMachine.Place, to there: BenchMachine.Place) async throws -> Double? {
    try Shell.run(["ip", "-n", BenchMachine.space.name, "mptcp", "endpoint", "flush"])
    let stream = try BenchStream(
      seed: settings.seed, [prerequisites.program, "lab", "sink", "--connect", "\(here.address):\(BenchMultipath.port)"],
      log: folder.file("mptcp-sink.log"))
    defer { stream.end() }
    try await stream.waitForFlow(limit: BenchMultipath.readyLimit)
    try await Task.sleep(for: .nanoseconds(BenchMultipath.settling.nanoseconds))
    try Shell.run(["ip", "-n", BenchMachine.space.name, "mptcp", "endpoint", "add", there.address, "dev", "eth0", "signal"])  // PREPARE
    try await Task.sleep(for: .nanoseconds(settings.hold.nanoseconds))
    stream.watch()
    let before = stream.octets
    try machine.stop(at: here)
    let stopped = ContinuousClock.now
    try await Task.sleep(for: .nanoseconds(settings.downtime.nanoseconds))
    let resumed = ContinuousClock.now
    try machine.resume(at: there)
    // What was under way still comes; a stream that goes on brings more than that.
    let underWay = Int(settings.sourceRate.bitsPerSecond / 8 * (lab.roundTripBefore.seconds + 0.1))
    let deadline = resumed + .seconds(settings.multipathLimit.seconds)
    while stream.octets < before + 2 * underWay {
      guard ContinuousClock.now < deadline else { return nil }
      try await Task.sleep(for: .milliseconds(20))
    }
    guard let gap = stream.longestGap else { return nil }
    return gap.seconds * 1e3 - BenchStream.seconds(resumed - stopped) * 1e3
  }
}
