import ArgumentParser
import CommandSupport
import Foundation
import Lab
import Vocabulary

struct LabCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "lab", abstract: "Builds networks on this machine, with real virtual machines, and runs experiments in them.",
    subcommands: [Run.self, SourceCommand.self, SinkCommand.self])

  struct Run: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Runs an experiment.", subcommands: [HandoverCommand.self])
  }
}

/// `longhaul lab run handover`.
struct HandoverCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "handover", abstract: "An FTP download lives through a live migration to a distant center, and stays fast. Needs root.")

  @Option(help: "The file, in MiB.")
  var size = 50

  @Option(help: "The rate of each WAN link, in Mbit/s.")
  var rate = 100.0

  @Option(help: "The round trip from the client to Center 1, in milliseconds.")
  var rttBefore = 10.0

  @Option(help: "The round trip from the client to Center 2, in milliseconds.")
  var rttAfter = 300.0

  @Option(help: "Of the segments on the WAN, in percent.")
  var loss = 0.0

  @Flag(help: "Leave the accelerators out: what the paper's Table 1 calls a conventional migration.")
  var withoutAccelerator = false

  @Flag(help: "Leave the machine at Center 1.")
  var withoutMigration = false

  @Flag(help: "Cancel the migration half-way.")
  var cancelMigration = false

  @Flag(help: "Kill the destination's hypervisor half-way.")
  var killDestination = false

  @Option(help: "The receive window of the endpoints in octets, or auto for the kernel's own.")
  var endpointWindow = "65536"

  @Option(help: "What the migration itself may send, in Mbit/s.")
  var migrationRate = 800.0

  @Option(help: "The seed of the file's contents and of the losses.")
  var seed: UInt64 = 1

  @Option(name: .customLong("json"), help: "Write the figures to this file.")
  var jsonFile: String?

  @Option(help: "Keep the logs of all parts in this folder.")
  var logs: String?

  @Option(help: "Keep a booted guest in this folder, and start from it the next time.")
  var savedGuests: String?

  @Option(help: "The static agent for the guest; without it longhaul-agent beside this program.")
  var agentProgram: String?

  @Flag(help: "Run the guests under KVM instead of TCG.")
  var kvm = false

  @Flag(help: "Print nothing but the table.")
  var quiet = false

  private var settings: LabSettings {
    get throws {
      var settings = LabSettings()
      settings.size = .mebibytes(size)
      settings.rate = .megabitsPerSecond(rate)
      settings.roundTripBefore = .milliseconds(rttBefore)
      settings.roundTripAfter = .milliseconds(rttAfter)
      settings.loss = loss / 100
      settings.usesAccelerators = !withoutAccelerator
      settings.migration = withoutMigration ? .none : cancelMigration ? .cancel : killDestination ? .killDestination : .complete
      settings.endpointWindow = try window
      settings.migrationRate = .megabitsPerSecond(migrationRate)
      settings.seed = seed
      settings.logFolder = logs
      settings.savedGuest = savedGuests
      settings.agentProgram = agentProgram
      settings.usesKVM = kvm
      return settings
    }
  }

  private var window: Int? {
    get throws {
      if endpointWindow == "auto" { return nil }
      guard let window = Int(endpointWindow) else {
        throw ValidationError("--endpoint-window \(endpointWindow): must be auto, or a number of octets")
      }
      return window
    }
  }

  func validate() throws {
    guard [withoutMigration, cancelMigration, killDestination].count(where: { $0 }) <= 1 else {
      throw ValidationError("--without-migration, --cancel-migration and --kill-destination exclude each other")
    }
    for (option, value) in [
      ("--rate", rate), ("--rtt-before", rttBefore), ("--rtt-after", rttAfter), ("--loss", loss), ("--migration-rate", migrationRate),
    ] {
      guard value.isFinite, abs(value) < 1e9 else { throw ValidationError("\(option) \(value): not a usable number") }
    }
    guard (0...1 << 30).contains(size) else { throw ValidationError("--size \(size): must be from 4 to 4096 MiB") }
    do { try settings.check() } catch let error as LabError { throw ValidationError(error.description) }
  }

  func run() async throws {
    // Before minutes go by: what is to be written must be writable.
    if let jsonFile { try checkWritable(jsonFile, "--json") }
    if let logs {
      do {
        try FileManager.default.createDirectory(atPath: logs, withIntermediateDirectories: true)
      } catch {
        throw OutputError(description: "--logs \(logs): cannot be made: \(error.localizedDescription)")
      }
    }
    let experiment = HandoverExperiment(try settings, isQuiet: quiet)
    let jsonFile = self.jsonFile
    let outcome = Outcome()
    try await runUntilSignalled {
      let result = try await experiment.run()
      print(result.report)
      if let jsonFile { try writeJSON(result, to: jsonFile) }
      outcome.finish(isGood: result.faults.isEmpty)
    }
    // Stopped by a signal: everything has been taken down, and nothing was shown.
    if let code = outcome.exitCode { throw code }
  }
}

/// How the run ended, told across the task that runs it.
final class Outcome: @unchecked Sendable {
  // Written at most once, by the task that `runUntilSignalled` awaits before anybody reads it.
  private var isGood: Bool?

  func finish(isGood: Bool) { self.isGood = isGood }
  /// Nil for a good end; 1 for a bad one; 130, as shells have it, for one that a signal brought.
  var exitCode: ExitCode? {
    switch isGood {
    case true?: nil
    case false?: ExitCode(1)
    case nil: ExitCode(130)
    }
  }
}

/// A whole line for a person; not the user's wording of the command, so no usage follows.
private struct OutputError: Error, CustomStringConvertible { var description: String }

func checkWritable(_ path: String, _ option: String) throws {
  let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
  let target = FileManager.default.fileExists(atPath: path) ? path : folder
  guard access(target, W_OK) == 0 else {
    throw OutputError(description: "\(option) \(path): cannot be written: \(String(cString: strerror(errno)))")
  }
}

func writeJSON(_ result: some Encodable, to path: String) throws {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
  do {
    try encoder.encode(result).write(to: URL(fileURLWithPath: path), options: .atomic)
  } catch {
    throw OutputError(description: "--json \(path): cannot be written: \(error.localizedDescription)")
  }
}
