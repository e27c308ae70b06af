import Authentication
import Control
import Foundation
import LinuxNetwork
import Vocabulary
import WANEmulation

/// Handovers, many of them, and how long the application waits in each: with real programs and the emulated WAN, and without the minutes that real guests take.
package struct HandoverBench: Sendable {
  private let settings: BenchSettings
  private let progress: RunProgress

  package init(_ settings: BenchSettings, isQuiet: Bool = false) {
    self.settings = settings
    progress = RunProgress(isQuiet: isQuiet)
  }

  /// Runs it, and takes everything down again, also after an error and when the task is cancelled.
  package func run() async throws -> BenchResult {
    try settings.check()
    var cells: [BenchResult.Cell] = []
    for loss in settings.losses {
      for roundTrip in settings.roundTrips { cells.append(try await measure(roundTrip, loss: loss)) }
    }
    return BenchResult(
      longhaul: "0.1.0", kernel: AcceleratorBenchResult.kernelVersion,
      settings: BenchResult.Settings(
        moves: settings.moves, holdSeconds: settings.hold.seconds, downtimeMilliseconds: settings.downtime.milliseconds,
        rateMbps: settings.rate.megabitsPerSecond, sourceRateMbps: settings.sourceRate.megabitsPerSecond,
        tickMilliseconds: settings.tick.milliseconds, parked: settings.isParked, sessions: settings.sessions,
        multipathLimitSeconds: settings.multipathLimit.seconds, seed: settings.seed),
      cells: cells)
  }

  /// One round trip with one loss, in a lab of its own: what one leaves behind (slow start thresholds, estimates) does not help the next.
  private func measure(_ roundTrip: TimeSpan, loss: Double) async throws -> BenchResult.Cell {
    let lab = settings.lab(roundTrip: roundTrip, loss: loss)
    let prerequisites = try Prerequisites(lab, forGuests: false)
    let folder = try await RunFolder.taken { progress.step("waiting for another run of the lab to end") }
    defer { folder.remove() }
    do {
      let cell = try await BenchRun(settings, lab, prerequisites, folder, progress).measure()
      if let logs = settings.logFolder { folder.keepLogs(in: logs) }
      return cell
    } catch {
      if let logs = settings.logFolder { folder.keepLogs(in: logs) }
      throw error
    }
  }
}
