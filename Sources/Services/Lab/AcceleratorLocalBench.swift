import Foundation
import LinuxNetwork
import Vocabulary

/// Throughput and latency on loopback, with no WAN in between: what the programs cost, not what the path does.
package struct AcceleratorLocalBench: Sendable {
  /// `longhaul bench accelerator --local` as JSON.
  package struct Result: Codable, Sendable {
    package struct Row: Codable, Sendable {
      package var way: String
      package var contents: BenchObject.Kind
      package var pass: AcceleratorBenchResult.Pass
      /// 10^6 octets a second, of each repetition.
      package var megabytesPerSecond: [Double]
      /// User and system time of both processes for 10^9 octets.
      package var cpuSecondsPerGigabyte: [Double]
      package var nearPeakOctets: Int
      package var farPeakOctets: Int
      package var complaints: [String]
    }

    package struct Latency: Codable, Sendable {
      package var way: String
      /// Of 32 octets there and back, one at a time.
      package var p50Milliseconds: Double
      package var p99Milliseconds: Double
      package var maximumMilliseconds: Double
      /// Taken from an application whose receiver reads nothing.
      package var octetsForStoppedReceiver: Int
    }

    package var longhaul: String
    package var kernel: String
    package var versions: [String: String]
    package var seed: UInt64
    package var octets: Int
    package var rows: [Row]
    package var latencies: [Latency]
    package var load: Double
    package var leftOut: [String]
  }

  /// 20 MB/s: slower than anything that is of use here.
  private static let slowest = 20e6
  private static let pings = 2_000
  private static let pingOctets = 32
  /// A sender that has got rid of nothing for so long is held back.
  private static let standstill = TimeSpan.seconds(2 as Int64)
  /// A relay that takes so much from a sender takes everything.
  private static let mostTaken = 1 << 30

  private let octets: Int
  private let settings: AcceleratorBenchSettings
  private let progress: RunProgress

  package init(octets: Int, _ settings: AcceleratorBenchSettings, isQuiet: Bool = false) {
    self.octets = octets
    self.settings = settings
    progress = RunProgress(isQuiet: isQuiet)
  }

  package func run() async throws -> Result {
    try settings.check()
    let program = settings.program ?? Prerequisites.ownPath
    var result = Result(
      longhaul: "0.1.0", kernel: AcceleratorBenchResult.kernelVersion, versions: [:], seed: settings.seed, octets: octets, rows: [],
      latencies: [], load: 0, leftOut: [])
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-bench-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    defer { try? FileManager.default.removeItem(atPath: folder) }
    guard let anyPort = Endpoint("127.0.0.1:0") else { preconditionFailure("a constant") }
    let server = try await ObjectServer(on: anyPort, in: nil)
    defer { server.stop() }
    var passages: [AcceleratorPassage] = []
    defer { for passage in passages { passage.end() } }
    for way in settings.ways where !way.isDirect || way == .cubic {
      if let missing = way.programs.first(where: { Shell.find($0.name) == nil }) {
        result.leftOut.append("\(way.rawValue): \(missing.name) is not on this machine; install Debian's package \(missing.package)")
        continue
      }
      let places = RelayPlaces(
        nearAddress: "127.0.0.1", farAddress: "127.0.0.1", server: server.endpoint, prefix: "127.0.0.1/32", roundTrip: .zero,
        folder: "\(folder)/\(way.rawValue)", port: try LabSocket.freePorts(2))
      passages.append(try await .start(way, places, program: program, options: settings.options))
      result.versions[way.rawValue] = way.version
    }
    for passage in passages {
      let latency = try await latency(passage, server.endpoint)
      progress.step(
        String(
          format: "%@: 32 octets there and back %.3f ms, 99 of 100 within %.3f; a stopped receiver's sender got rid of %d KB", latency.way,
          latency.p50Milliseconds, latency.p99Milliseconds, latency.octetsForStoppedReceiver / 1_000))
      result.latencies.append(latency)
    }
    for kind in settings.contents where kind != .image { result.rows += try await throughput(kind, passages, server) }
    if let logs = settings.logFolder {
      for passage in passages { RunFolder.keepLogs(of: passage.way.rawValue, from: "\(folder)/\(passage.way.rawValue)", in: logs) }
    }
    result.load = AcceleratorBenchResult.load
    return result
  }

  // MARK: Throughput

  /// Every way in turn, so that what disturbs the machine disturbs all of them.
  private func throughput(_ kind: BenchObject.Kind, _ passages: [AcceleratorPassage], _ server: ObjectServer) async throws -> [Result.Row] {
    var rows: [String: Result.Row] = [:]
    var order: [String] = []
    var objects = ObjectSupply(files: nil, seed: settings.seed &* 1_000_003)
    for _ in 0..<settings.repeats {
      guard let object = try objects.next(kind, octets).first else { continue }
      server.put(object, as: 1)
      defer { server.remove(1) }
      for passage in passages {
        for pass in [AcceleratorBenchResult.Pass.first, .again] where pass == .first || passage.way == .longhaul {
          let key = "\(passage.way.rawValue) \(pass.rawValue)"
          let before = passage.usage
          let outcome = try await ObjectFetch(
            entry: passage.entry, target: passage.target, number: 1, object: object, limit: .seconds(Double(octets) / Self.slowest + 5)
          ).run()
          try passage.check()
          let after = passage.usage
          var row =
            rows[key]
            ?? Result.Row(
              way: passage.way.isDirect ? "direct" : passage.way.rawValue, contents: kind, pass: pass, megabytesPerSecond: [],
              cpuSecondsPerGigabyte: [], nearPeakOctets: 0, farPeakOctets: 0, complaints: [])
          if rows[key] == nil { order.append(key) }
          row.nearPeakOctets = after.near.peakOctets
          row.farPeakOctets = after.far.peakOctets
          let cpu = after.near.cpuSeconds + after.far.cpuSeconds - before.near.cpuSeconds - before.far.cpuSeconds
          if let complaint = outcome.wrongAt.map({ "WRONG OCTETS from \($0) on" }) ?? outcome.complaint {
            row.complaints.append(complaint)
          } else {
            row.megabytesPerSecond.append(Double(octets) / outcome.dataSeconds / 1e6)
            if outcome.isComplete { row.cpuSecondsPerGigabyte.append(cpu / Double(octets) * 1e9) }
          }
          rows[key] = row
          progress.step(
            String(
              format: "%@ %@ %@: %.0f MB/s, %.2f CPU s/GB%@", row.way, kind.rawValue, pass.rawValue, row.megabytesPerSecond.last ?? 0,
              row.cpuSecondsPerGigabyte.last ?? 0, row.complaints.last.map { ", \($0)" } ?? ""))
        }
      }
    }
    return order.compactMap { rows[$0] }
  }

  // MARK: Latency

  private func latency(_ passage: AcceleratorPassage, _ server: Endpoint) async throws -> Result.Latency {
    let (entry, target) = (passage.entry, passage.target)
    let times = try await LabSocket.onThread(in: nil) { try AcceleratorLocalBench.ping(entry, target) }.sorted()
    let taken = try await LabSocket.onThread(in: nil) { try AcceleratorLocalBench.pushIntoNothing(entry, target) }
    return Result.Latency(
      way: passage.way.isDirect ? "direct" : passage.way.rawValue, p50Milliseconds: BenchResult.median(ofSorted: times) * 1e3,
      p99Milliseconds: (times.isEmpty ? 0 : times[min(times.count - 1, (times.count * 99 + 99) / 100 - 1)]) * 1e3,
      maximumMilliseconds: (times.last ?? 0) * 1e3, octetsForStoppedReceiver: taken)
  }

  private static func ping(_ entry: Endpoint, _ target: Endpoint?) throws -> [Double] {
    let connection = try ObjectFetch.open(entry, target)
    defer { close(connection) }
    guard LabSocket.write("PING\n", to: connection) else { throw LabError.downloadFailed("a ping could not be sent") }
    var random = SeededGenerator(seed: 1)
    var times: [Double] = []
    for _ in 0..<pings {
      let question = (0..<pingOctets).map { _ in UInt8.random(in: 0...255, using: &random) }
      let began = ContinuousClock.now
      guard question.withUnsafeBytes({ LabSocket.write($0, to: connection) }),
        let answer = LabSocket.read(connection, exactly: pingOctets), answer == question
      else { throw LabError.downloadFailed("a ping was not answered") }
      times.append(seconds(since: began))
    }
    return times
  }

  /// How much a sender gets rid of while its receiver reads nothing.
  private static func pushIntoNothing(_ entry: Endpoint, _ target: Endpoint?) throws -> Int {
    let connection = try ObjectFetch.open(entry, target)
    defer {
      // With a RST: the octets are for nobody.
      var linger = Glibc.linger(l_onoff: 1, l_linger: 0)
      setsockopt(connection, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<Glibc.linger>.size))
      close(connection)
    }
    guard LabSocket.write("TAKE\n", to: connection) else { throw LabError.downloadFailed("nothing could be sent") }
    LabSocket.setLimit(connection, standstill)
    var taken = 0
    while taken < mostTaken {
      // Always new: of octets that come again a cache may take more, since it holds them once.
      let piece = BenchObject.random(256 << 10, seed: UInt64(taken)).octets
      let count = send(connection, piece, piece.count, Int32(MSG_NOSIGNAL))
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { break }
      taken += count
    }
    return taken
  }
}

extension AcceleratorLocalBench.Result {
  /// What is wrong, in words.
  package var faults: [String] {
    rows.filter { !$0.complaints.isEmpty }.map {
      "\($0.way), \($0.contents.rawValue), \($0.pass.rawValue): \($0.complaints.joined(separator: "; "))"
    }
  }

  /// The tables, for a person.
  package var report: String {
    func figures(_ values: [Double], _ format: String) -> String {
      let sorted = values.sorted()
      guard let least = sorted.first, let most = sorted.last else { return "-" }
      let median = String(format: format, BenchResult.median(ofSorted: sorted))
      return sorted.count == 1 ? median : "\(median) (\(String(format: format, least)) to \(String(format: format, most)))"
    }
    var lines = [
      "\(octets) octets by one connection on loopback; load \(String(format: "%.1f", load))",
      "| way | contents | pass | MB/s (spread) | CPU s/GB, both | peak RSS MB near, far |", "|---|---|---|---|---|---|",
    ]
    lines += rows.map { row in
      "| \(row.way) | \(row.contents.rawValue) | \(row.pass.rawValue) | \(figures(row.megabytesPerSecond, "%.0f")) | \(figures(row.cpuSecondsPerGigabyte, "%.2f")) | \(row.nearPeakOctets / 1_000_000), \(row.farPeakOctets / 1_000_000) |"
    }
    lines += ["", "| way | 32 octets, p50 ms | p99 ms | max ms | KB taken for a stopped receiver |", "|---|---|---|---|---|"]
    lines += latencies.map { latency in
      String(
        format: "| %@ | %.3f | %.3f | %.1f | %d |", latency.way, latency.p50Milliseconds, latency.p99Milliseconds,
        latency.maximumMilliseconds,
        latency.octetsForStoppedReceiver / 1_000)
    }
    if !leftOut.isEmpty { lines += [""] + leftOut.map { "not measured: \($0)" } }
    if !faults.isEmpty { lines += [""] + faults.map { "FAULT: \($0)" } }
    return lines.joined(separator: "\n") + "\n"
  }
}
