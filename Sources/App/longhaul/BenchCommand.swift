import ArgumentParser
import CommandSupport
import Foundation
import Lab
import Vocabulary

struct BenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench", abstract: "Measures Longhaul on this machine.",
    subcommands: [
      HandoverBenchCommand.self, AcceleratorBenchCommand.self, SoakBenchCommand.self, SCTPBenchCommand.self, SessionsBenchCommand.self,
    ])
}

/// `longhaul bench handover`.
struct HandoverBenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "handover",
    abstract: "How long an application waits when its machine moves, beyond the time for which the machine stands still. Needs root.")

  @Option(help: "Round trips from the client to both centers, in milliseconds.")
  var rtt: NumberList = "10,50,100,200,300,500"

  @Option(help: "Of the segments on the WAN, in percent; each with each round trip.")
  var loss: NumberList = "0"

  @Option(help: "Moves for each round trip, there and back in turns.")
  var moves = 20

  @Option(help: "Seconds from the beginning of a migration to the machine's stop.")
  var hold = 0.2

  @Option(help: "Milliseconds for which the machine stands still.")
  var downtime = 100.0

  @Option(help: "The rate of each WAN link, in Mbit/s.")
  var rate = 100.0

  @Option(help: "What the machine sends, in Mbit/s.")
  var sourceRate = 5.0

  @Flag(help: "With accelerators on every path: the client's first flight is parked beside the machine's future place.")
  var parked = false

  @Option(help: "Clients that move at once, each with a session and a stream of its own.")
  var sessions = 1

  @Option(help: "So many moves of Linux's MPTCP beside, the address announced at the beginning of the migration.")
  var mptcp = 0

  @Option(help: "Seconds within which a move of MPTCP must be through.")
  var mptcpLimit = 40.0

  @Option(help: "The seed of the stream's contents and of the losses.")
  var seed: UInt64 = 1

  @Option(name: .customLong("json"), help: "Write the figures to this file.")
  var jsonFile: String?

  @Option(help: "Keep the logs of all parts (of the last round trip) in this folder.")
  var logs: String?

  @Option(help: "The agent; without it longhaul-agent beside this program.")
  var agentProgram: String?

  @Flag(help: "Print nothing but the table.")
  var quiet = false

  private var settings: BenchSettings {
    var settings = BenchSettings()
    settings.roundTrips = rtt.numbers.map { .milliseconds($0) }
    settings.losses = loss.numbers.map { $0 / 100 }
    settings.moves = moves
    settings.hold = .seconds(hold)
    settings.downtime = .milliseconds(downtime)
    settings.rate = .megabitsPerSecond(rate)
    settings.sourceRate = .megabitsPerSecond(sourceRate)
    settings.isParked = parked
    settings.sessions = sessions
    settings.multipathMoves = mptcp
    settings.multipathLimit = .seconds(mptcpLimit)
    settings.seed = seed
    settings.agentProgram = agentProgram
    settings.logFolder = logs
    return settings
  }

  func validate() throws {
    for (option, value) in [
      ("--hold", hold), ("--downtime", downtime), ("--rate", rate), ("--source-rate", sourceRate), ("--mptcp-limit", mptcpLimit),
    ] {
      guard value.isFinite, abs(value) < 1e6 else { throw ValidationError("\(option) \(value): not a usable number") }
    }
    do { try settings.check() } catch { throw ValidationError(error.description) }
  }

  func run() async throws {
    if let jsonFile { try checkWritable(jsonFile, "--json") }
    let bench = HandoverBench(settings, isQuiet: quiet)
    let jsonFile = self.jsonFile
    let outcome = Outcome()
    try await runUntilSignalled {
      let result = try await bench.run()
      if let jsonFile { try writeJSON(result, to: jsonFile) }
      print(result.report)
      outcome.finish(isGood: result.faults.isEmpty)
    }
    if let code = outcome.exitCode { throw code }
  }
}

/// Numbers with commas between them.
struct NumberList: ExpressibleByArgument, ExpressibleByStringLiteral, CustomStringConvertible {
  var numbers: [Double]
  var description: String { numbers.map { $0 == $0.rounded() && abs($0) < 1e15 ? "\(Int($0))" : "\($0)" }.joined(separator: ",") }
  var defaultValueDescription: String { description }

  init?(argument: String) {
    let parts = argument.split(separator: ",", omittingEmptySubsequences: false).map { Double($0) }
    let numbers = parts.compactMap { $0 }.filter { $0.isFinite && abs($0) < 1e6 }
    guard numbers.count == parts.count else { return nil }
    self.numbers = numbers
  }

  init(stringLiteral text: String) { numbers = NumberList(argument: text)?.numbers ?? [] }
}

/// `longhaul lab source`: the service in the bench's machine.
struct SourceCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "source", abstract: "Writes numbered blocks at a constant rate to whoever connects.", shouldDisplay: false)

  @Option(help: "ADDRESS:PORT.")
  var listen: Endpoint

  @Option(help: "Mbit/s to each connection.")
  var rate = 5.0

  @Option(help: "Milliseconds between two pieces.")
  var tickMs = 1.0

  @Option(help: "The seed of the contents.")
  var seed: UInt64 = 1

  @Flag(help: "Over MPTCP.")
  var mptcp = false

  func validate() throws {
    guard (0.001...10_000).contains(rate) else { throw ValidationError("--rate \(rate): must be from 0.001 to 10000 Mbit/s") }
    guard (0.1...10_000).contains(tickMs) else { throw ValidationError("--tick-ms \(tickMs): must be from 0.1 to 10000 ms") }
  }

  func run() throws {
    try BenchSource(rate: .megabitsPerSecond(rate), tick: .milliseconds(tickMs), seed: seed, isMultipath: mptcp).run(on: listen)
  }
}

/// `longhaul lab sink`: the bench's application for MPTCP.
struct SinkCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sink", abstract: "Reads a source over MPTCP and prints what comes.", shouldDisplay: false)

  @Option(help: "ADDRESS:PORT.")
  var connect: Endpoint

  func run() throws { try BenchSink().run(from: connect) }
}
