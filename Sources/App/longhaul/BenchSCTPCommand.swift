import ArgumentParser
import CommandSupport
import Foundation
import Vocabulary

/// `longhaul bench sctp`.
struct SCTPBenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sctp", abstract: "What the SCTP stack carries on loopback, for how much processor time, and what an idle session costs.")

  @Option(help: "Seconds of each run.")
  var seconds = 2.0

  @Option(help: "Runs of each kind; medians are printed.")
  var runs = 3

  @Option(help: "Sessions of which the memory of one is measured, with an agent in a process of its own; 0: not measured.")
  var idleSessions = 10_000

  @Option(name: .customLong("json"), help: "Write the figures to this file.")
  var jsonFile: String?

  func validate() throws {
    if !(0.1...600).contains(seconds) { throw ValidationError("--seconds \(seconds): must be from 0.1 to 600") }
    if !(1...100).contains(runs) { throw ValidationError("--runs \(runs): must be from 1 to 100") }
    if !(0...16_384).contains(idleSessions) { throw ValidationError("--idle-sessions \(idleSessions): must be from 0 to 16384") }
  }

  private struct Row: Codable {
    var carrier: String
    var messageOctets: Int
    var cores: Int
    var megabitsPerSecond: Double
    var messagesPerSecond: Double
    var cpuSecondsPerGigabyte: Double
    var allMegabitsPerSecond: [Double]
  }

  private struct Result: Codable {
    var seconds: Double
    var runs: Int
    var throughput: [Row] = []
    var idle: SessionsBench.Result?
  }

  /// A further carrier is one more line here and one more case of `ThroughputBench.CarrierKind`.
  private static let trials: [(ThroughputBench.CarrierKind, Int)] = [
    (.tcp, 1_024), (.tcp, 65_536), (.sealed, 1_024), (.sealed, 65_536), (.udp, 64), (.udp, 1_200), (.udp, 65_536),
  ]

  func run() async throws {
    if let jsonFile { try checkWritable(jsonFile, "--json") }
    let (seconds, runs, idleSessions, jsonFile) = (seconds, runs, idleSessions, jsonFile)
    let outcome = Outcome()
    try await runUntilSignalled {
      var result = Result(seconds: seconds, runs: runs)
      print("| carrier | octets | cores | Mbit/s | messages/s | CPU s per GB, both ends |\n|---|---|---|---|---|---|")
      for (carrier, octets) in Self.trials {
        for isOnOneCore in [true, false] {
          let row = try await Self.measure(carrier, octets, isOnOneCore: isOnOneCore, runs: runs, seconds: seconds)
          result.throughput.append(row)
          print(
            "| \(row.carrier) | \(octets) | \(row.cores) | \(short(row.megabitsPerSecond)) | \(Int(row.messagesPerSecond)) | \(short(row.cpuSecondsPerGigabyte)) |"
          )
        }
      }
      if idleSessions > 0 {
        let bench = SessionsBench(sessions: idleSessions, flows: 0, moves: 0, program: CommandLine.arguments[0].programPath)
        result.idle = try await bench.run { print($0) }
      }
      if let jsonFile { try writeJSON(result, to: jsonFile) }
      outcome.finish(isGood: result.idle.map { $0.sessions == idleSessions } ?? true)
    }
    if let code = outcome.exitCode { throw code }
  }

  private static func measure(
    _ carrier: ThroughputBench.CarrierKind, _ octets: Int, isOnOneCore: Bool, runs: Int, seconds: Double
  ) async throws -> Row {
    var samples: [ThroughputBench.Sample] = []
    for _ in 0..<runs {
      samples.append(
        try await ThroughputBench(seconds: seconds).run(.init(carrier: carrier, messageOctets: octets, isOnOneCore: isOnOneCore)))
    }
    return Row(
      carrier: carrier.rawValue, messageOctets: octets, cores: isOnOneCore ? 1 : 2,
      megabitsPerSecond: median(samples.map(\.megabitsPerSecond)), messagesPerSecond: median(samples.map(\.messagesPerSecond)),
      cpuSecondsPerGigabyte: median(samples.map(\.cpuSecondsPerGigabyte)), allMegabitsPerSecond: samples.map(\.megabitsPerSecond))
  }
}

/// `longhaul bench sessions`.
struct SessionsBenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sessions", abstract: "One agent with thousands of sessions and flows; then sessions that all move at once.")

  @Option(help: "Sessions, each with its own association.")
  var sessions = 10_000

  @Option(help: "Flows in all of them, every one with a connection to a service.")
  var flows = 50_000

  @Option(help: "Sessions that get GO at once when all is open.")
  var moves = 1_000

  @Option(name: .customLong("json"), help: "Write the figures to this file.")
  var jsonFile: String?

  func validate() throws {
    if !(1...16_384).contains(sessions) { throw ValidationError("--sessions \(sessions): must be from 1 to 16384") }
    if !(0...200_000).contains(flows) { throw ValidationError("--flows \(flows): must be from 0 to 200000") }
    if !(0...sessions).contains(moves) { throw ValidationError("--moves \(moves): must be from 0 to \(sessions)") }
  }

  func run() async throws {
    if let jsonFile { try checkWritable(jsonFile, "--json") }
    let (bench, jsonFile) = (
      SessionsBench(sessions: sessions, flows: flows, moves: moves, program: CommandLine.arguments[0].programPath), jsonFile
    )
    let outcome = Outcome()
    try await runUntilSignalled {
      let result = try await bench.run { print($0) }
      if let jsonFile { try writeJSON(result, to: jsonFile) }
      for (reason, count) in result.failures.sorted(by: { $0.key < $1.key }) { print("\(count) times: \(reason)") }
      outcome.finish(isGood: result.failures.isEmpty && result.moved == bench.moves)
    }
    if let code = outcome.exitCode { throw code }
  }
}

extension String {
  /// This program, however it was started.
  fileprivate var programPath: String {
    FileManager.default.fileExists(atPath: "/proc/self/exe")
      ? (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? self : self
  }
}
