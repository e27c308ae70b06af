import Foundation
import Vocabulary
import WANEmulation

/// What `longhaul bench accelerator` showed, as it is written to JSON.
package struct AcceleratorBenchResult: Codable, Sendable {
  package enum Pass: String, Codable, Sendable, CaseIterable {
    /// Of an object that nobody has seen.
    case first
    /// The same object once more.
    case again
    /// An image whose former version has gone by.
    case nextVersion = "next version"
  }

  /// One object size by one way, some times.
  package struct Row: Codable, Sendable {
    package var way: AcceleratorWay
    package var contents: BenchObject.Kind
    package var octets: Int
    package var pass: Pass
    /// From the request to the last octet, and with connecting before it; of each repetition.
    package var dataSeconds: [Double]
    package var totalSeconds: [Double]
    /// Stopped before its end, or not tried since a smaller one was: the time is computed from the rate of the second half.
    package var isComputed: Bool
    /// octets / (rate x 1448 / 1500) + round trip.
    package var limitSeconds: Double
    /// Over the WAN, both directions and all headers; medians.
    package var wanOctetsDown: Double?
    package var wanOctetsUp: Double?
    /// User and system time of the processes at each side, for 10^9 octets of the application; of objects of 1 MB and more.
    package var nearSecondsPerGigabyte: Double?
    package var farSecondsPerGigabyte: Double?
    package var nearPeakOctets: Int?
    package var farPeakOctets: Int?
    package var complaints: [String]

    package var median: Double { BenchResult.median(ofSorted: dataSeconds.sorted()) }
    package var ratio: Double { median / limitSeconds }
  }

  /// One rate with one round trip and one loss.
  package struct Cell: Codable, Sendable {
    package var rateMbps: Double
    package var roundTripMilliseconds: Double
    package var lossPercent: Double
    package var rows: [Row]
    /// Real programs through the pair; empty if they were not asked for.
    package var protocols: [AcceleratorProtocols.Row]
    /// The machine's load average when the cell was done: a busy machine is late.
    package var load: Double
    package var wan: [LinkReport]
  }

  package struct Settings: Codable, Sendable {
    package var seed: UInt64
    package var repeats: Int
    package var transferLimitSeconds: Double
    package var acceleratorOptions: [String]
    package var image: String
  }

  package var longhaul: String
  package var kernel: String
  /// Of the other programs.
  package var versions: [String: String]
  package var settings: Settings
  package var cells: [Cell]
  /// What was not measured, and why.
  package var leftOut: [String]

  /// What is wrong, in words; a target that was not met is a figure and no fault.
  package var faults: [String] {
    cells.flatMap { cell in
      cell.protocols.filter { !$0.isRight }.map { "\($0.what) \(cell.place): not what was sent" }
        + cell.rows.filter { !$0.complaints.isEmpty && $0.way.seesContents }.map { row in
          "\(row.way.rawValue) \(cell.place), \(row.octets) octets, \(row.contents.rawValue), \(row.pass.rawValue): \(row.complaints.joined(separator: "; "))"
        }
    }
  }
}

extension AcceleratorBenchResult.Cell {
  var place: String { String(format: "at %g Mbit/s, %g ms, %g %% loss", rateMbps, roundTripMilliseconds, lossPercent) }
}

extension AcceleratorBenchResult {
  static func limit(_ octets: Int, rate: BitRate, roundTrip: TimeSpan) -> Double {
    Double(octets) * 8 / (rate.bitsPerSecond * 1_448 / 1_500) + roundTrip.seconds
  }

  static var kernelVersion: String {
    var name = utsname()
    uname(&name)
    return withUnsafeBytes(of: &name.release) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
  }

  static var load: Double {
    var loads = [0.0, 0.0, 0.0]
    return getloadavg(&loads, 3) > 0 ? loads[0] : 0
  }

  /// For a person: Markdown, one table for each cell.
  package var report: String {
    var lines: [String] = []
    for cell in cells {
      let directions = cell.wan.flatMap { [$0.aToZ, $0.zToA] }
      lines += [
        "",
        "\(cell.place); WAN late by \(String(format: "%.3f ms on average, %.1f at most", (directions.map(\.meanLatenessMicroseconds).max() ?? 0) / 1e3, (directions.map(\.maximumLatenessMicroseconds).max() ?? 0) / 1e3)); load \(String(format: "%.1f", cell.load))",
        "| way | contents | octets | pass | data, s (spread) | x limit | total, s | WAN KB down, up | WAN / octets | CPU s/GB near, far | RSS MB near, far |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
      ]
      lines += cell.rows.map { "| \($0.cells.joined(separator: " | ")) |" }
      guard !cell.protocols.isEmpty else { continue }
      lines += ["", "| programs through the pair | octets | s | 99 of 100 within s | WAN KB | right |", "|---|---|---|---|---|---|"]
      lines += cell.protocols.map { row in
        String(
          format: "| %@ | %d | %.3f | %@ | %.1f | %@ |", row.what, row.octets, row.seconds,
          row.p99Seconds.map { String(format: "%.3f", $0) } ?? "-",
          Double(row.wanOctets) / 1e3, row.isRight ? "yes" : "NO")
      }
    }
    if !leftOut.isEmpty { lines += [""] + leftOut.map { "not measured: \($0)" } }
    if !faults.isEmpty { lines += [""] + faults.map { "FAULT: \($0)" } }
    return lines.joined(separator: "\n") + "\n"
  }
}

extension AcceleratorBenchResult.Row {
  fileprivate var cells: [String] {
    let sorted = dataSeconds.sorted()
    func pair(_ a: Double?, _ z: Double?, _ format: String) -> String {
      guard let a, let z else { return "-" }
      return "\(String(format: format, a)), \(String(format: format, z))"
    }
    let spread = sorted.count > 1 ? String(format: " (%.3f to %.3f)", sorted[0], sorted[sorted.count - 1]) : ""
    let mark = isComputed ? "~" : ""
    guard !sorted.isEmpty else {
      return [way.rawValue, contents.rawValue, size, pass.rawValue, complaints.first ?? "-"] + [String](repeating: "-", count: 6)
    }
    let total = BenchResult.median(ofSorted: totalSeconds.sorted())
    return [
      way.rawValue, contents.rawValue, size, pass.rawValue, mark + String(format: "%.3f", median) + spread,
      mark + String(format: "%.3f", ratio),
      mark + String(format: "%.3f", total), pair(wanOctetsDown.map { $0 / 1e3 }, wanOctetsUp.map { $0 / 1e3 }, "%.1f"),
      wanOctetsDown.map { String(format: "%.4f", ($0 + (wanOctetsUp ?? 0)) / Double(octets)) } ?? "-",
      pair(nearSecondsPerGigabyte, farSecondsPerGigabyte, "%.1f"),
      pair(nearPeakOctets.map { Double($0) / 1e6 }, farPeakOctets.map { Double($0) / 1e6 }, "%.0f"),
    ]
  }

  private var size: String {
    octets >= 1_000_000 ? String(format: "%g M", Double(octets) / 1e6) : String(format: "%g K", Double(octets) / 1e3)
  }
}
