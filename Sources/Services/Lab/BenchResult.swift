import Foundation
import Vocabulary
import WANEmulation

/// What `longhaul bench handover` showed, as it is written to JSON.
package struct BenchResult: Codable, Sendable {
  package struct Settings: Codable, Sendable, Hashable {
    package var moves: Int
    package var holdSeconds: Double
    package var downtimeMilliseconds: Double
    package var rateMbps: Double
    package var sourceRateMbps: Double
    package var tickMilliseconds: Double
    package var parked: Bool
    package var sessions: Int
    package var multipathLimitSeconds: Double
    package var seed: UInt64
  }

  package struct Move: Codable, Sendable, Hashable {
    package var to: String
    /// The longest time between two reads of the application around the move; the median of all sessions.
    package var interruptionMilliseconds: Double
    /// That of each session, if there are several.
    package var sessionsMilliseconds: [Double]?
    /// From STOP to RESUME, as it came out.
    package var downtimeMilliseconds: Double
    package var ownMilliseconds: Double { interruptionMilliseconds - downtimeMilliseconds }
    /// Octets of the streams that the agent sent again, and what had been under way or unsent on the carriers that were left: the first never exceeds the second. (Of one move
    /// it may: on a slow start the last of an earlier move's are counted with the next one. Over all moves it does not.)
    package var octetsSentAgain: Int
    package var octetsUnderWay: Int
    /// From RESUME until the stream flows with nine tenths of its rate before (100 ms in steps of 10); of several sessions the longest. Nil if it was not seen in 10 s.
    package var recoveryMilliseconds: Double?
    /// The path that the controller chose, and what it measured of the move.
    package var path: String
    package var resumeToGoMilliseconds: Double?
    package var goToConfirmedMilliseconds: Double?
  }

  /// One round trip with one loss.
  package struct Cell: Codable, Sendable {
    package var roundTripMilliseconds: Double
    package var lossPercent: Double
    package var moves: [Move]
    package var octets: Int
    package var octetsLost: Int
    package var octetsDuplicated: Int
    package var medianMilliseconds: Double
    /// Of less than 100 moves this is the greatest.
    package var p99Milliseconds: Double
    package var minimumMilliseconds: Double
    package var targetMilliseconds: Double
    /// Linux's MPTCP beside it: interruption minus downtime of each move, null where there was none within `multipathLimitSeconds`. Nil if it was not measured.
    package var multipathMilliseconds: [Double?]?
    package var octetsSentAgainMedian: Double
    package var recoveryMedianMilliseconds: Double?
    /// The machine's load average when the cell was done: a busy machine is late.
    package var load: Double
    /// The WAN's seeds are 2 x the seed + the link's number.
    package var wan: [LinkReport]

    package var meetsTarget: Bool { medianMilliseconds <= targetMilliseconds }
  }

  package var longhaul: String
  package var kernel: String
  package var settings: Settings
  package var cells: [Cell]

  /// What is wrong, in words; a target that was not met is a figure and no fault.
  package var faults: [String] {
    cells.flatMap { cell -> [String] in
      let place = "at \(cell.roundTripMilliseconds) ms and \(cell.lossPercent) % loss"
      var faults: [String] = []
      if cell.octetsLost > 0 { faults.append("\(place) \(cell.octetsLost) octets were lost") }
      if cell.octetsDuplicated > 0 { faults.append("\(place) \(cell.octetsDuplicated) octets came twice") }
      let foreign = cell.moves.count { ($0.path == "direct") == settings.parked }
      let again = cell.moves.reduce(0) { $0 + $1.octetsSentAgain }
      let underWay = cell.moves.reduce(0) { $0 + $1.octetsUnderWay }
      if again > underWay { faults.append("\(place) \(again) octets were sent again, and only \(underWay) had been under way") }
      if foreign > 0 { faults.append("\(place) \(foreign) moves did not take the path that was to be measured") }
      return faults
    }
  }
}

extension BenchResult.Cell {
  init(
    roundTrip: TimeSpan, loss: Double, isParked: Bool, moves: [BenchResult.Move], octets: Int, lost: Int, duplicated: Int,
    multipath: [Double?], wan: [LinkReport]
  ) {
    roundTripMilliseconds = roundTrip.milliseconds
    lossPercent = loss * 100
    self.moves = moves
    self.octets = octets
    octetsLost = lost
    octetsDuplicated = duplicated
    let sorted = moves.flatMap(\.own).sorted()
    multipathMilliseconds = multipath.isEmpty ? nil : multipath
    octetsSentAgainMedian = BenchResult.median(ofSorted: moves.map { Double($0.octetsSentAgain) }.sorted())
    let recoveries = moves.compactMap(\.recoveryMilliseconds).sorted()
    recoveryMedianMilliseconds = recoveries.count == moves.count ? BenchResult.median(ofSorted: recoveries) : nil
    var loads = [0.0, 0.0, 0.0]
    load = getloadavg(&loads, 3) > 0 ? loads[0] : 0
    medianMilliseconds = BenchResult.median(ofSorted: sorted)
    // The nearest rank: the least value that 99 % do not exceed.
    p99Milliseconds = sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, (sorted.count * 99 + 99) / 100 - 1)]
    minimumMilliseconds = sorted.first ?? 0
    targetMilliseconds = BenchResult.target(roundTrip, isParked: isParked)
    self.wan = wan
  }
}

extension BenchResult.Move {
  /// Interruption minus downtime of each session.
  var own: [Double] { (sessionsMilliseconds ?? [interruptionMilliseconds]).map { $0 - downtimeMilliseconds } }

  /// For a person: one figure, or the median and the spread of several.
  var spread: String {
    let sorted = own.sorted()
    guard sorted.count > 1, let least = sorted.first, let most = sorted.last else { return String(format: "%.1f", ownMilliseconds) }
    return String(format: "%.1f (%.1f to %.1f)", BenchResult.median(ofSorted: sorted), least, most)
  }
}

extension BenchResult {
  static func median(ofSorted values: [Double]) -> Double {
    guard !values.isEmpty else { return 0 }
    let middle = values.count / 2
    return values.count % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2
  }

  /// Direct: GO reaches the client (1/2), a connection (1), the first flight and the data that answer it (1), and a little for the programs. Parked: the data's own way (1/2).
  static func target(_ roundTrip: TimeSpan, isParked: Bool) -> Double {
    isParked ? roundTrip.milliseconds / 2 + 30 : roundTrip.milliseconds * 2.5 + 20
  }

  /// The table, for a person.
  package var report: String {
    let head = settings.parked ? "first flight parked beside the machine's future place" : "direct path"
    func figure(_ value: Double) -> String { value == value.rounded() ? "\(Int(value))" : "\(value)" }
    var lines = [
      "Interruption of the application minus the machine's downtime, in ms: \(head)",
      "\(settings.moves) moves each; \(figure(settings.holdSeconds)) s from PREPARE to STOP, \(figure(settings.downtimeMilliseconds)) ms from STOP to RESUME;"
        + " source \(figure(settings.sourceRateMbps)) Mbit/s, WAN \(figure(settings.rateMbps)) Mbit/s, seed \(settings.seed)",
      settings.sessions > 1 ? "\(settings.sessions) sessions move at once; the figures are over all of them" : "",
      "  RTT  loss %   median      p99      min   target         lost  twice  KB again  90 % after  WAN late (mean, max)  load",
    ]
    for cell in cells {
      let directions = cell.wan.flatMap { [$0.aToZ, $0.zToA] }
      lines.append(
        String(
          format: "%5.0f %7.1f %8.1f %8.1f %8.1f %8.1f %@ %6d %6d %9.1f %8@ ms  %.3f, %.1f ms %11.1f", cell.roundTripMilliseconds,
          cell.lossPercent,
          cell.medianMilliseconds, cell.p99Milliseconds, cell.minimumMilliseconds, cell.targetMilliseconds,
          cell.meetsTarget ? "met   " : "MISSED",
          cell.octetsLost, cell.octetsDuplicated, cell.octetsSentAgainMedian / 1e3,
          cell.recoveryMedianMilliseconds.map { String(format: "%.0f", $0) } ?? "-",
          (directions.map(\.meanLatenessMicroseconds).max() ?? 0) / 1e3,
          (directions.map(\.maximumLatenessMicroseconds).max() ?? 0) / 1e3, cell.load))
      if let multipath = cell.multipathMilliseconds {
        let seen = multipath.compactMap { $0 }.sorted()
        let never = multipath.count - seen.count
        let figures = seen.isEmpty ? "" : String(format: "median %.1f, most %.1f", BenchResult.median(ofSorted: seen), seen.last ?? 0)
        let none = never == 0 ? "" : "\(never) of \(multipath.count) never within \(figure(settings.multipathLimitSeconds)) s"
        lines.append("              Linux MPTCP: \([figures, none].filter { !$0.isEmpty }.joined(separator: "; "))")
      }
    }
    if !faults.isEmpty { lines += [""] + faults.map { "FAULT: \($0)" } }
    return lines.joined(separator: "\n") + "\n"
  }
}
