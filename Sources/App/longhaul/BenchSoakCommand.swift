import ArgumentParser
import CommandSupport
import Foundation
import Lab
import Vocabulary

/// `longhaul bench soak`.
struct SoakBenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "soak",
    abstract:
      "Thousands of connections at a time through a pair of accelerators on loopback, checked octet by octet, while one or the other is killed."
  )

  @Option(help: "Connections at a time; each takes two descriptors in this process and two in each accelerator.")
  var flows = 5_000

  @Option(help: "Minutes.")
  var minutes = 10.0

  @Option(help: "Seconds between two kills (SIGKILL) of an accelerator, one and the other in turns; 0: none.")
  var killEvery = 30.0

  @Option(help: "The longest that the pauses of one connection come to, in seconds.")
  var pauses = 20.0

  @Option(help: "The seed of all contents, sizes, pauses and aborts.")
  var seed: UInt64 = 1

  @Flag(help: "Connect to the server itself, to try the soak without accelerators.")
  var direct = false

  @Option(parsing: .singleValue, help: "A further option of both accelerators; may be given several times.")
  var with: [String] = []

  @Option(name: .customLong("json"), help: "Write the figures to this file.")
  var jsonFile: String?

  @Option(help: "Keep the accelerators' logs in this folder.")
  var logs: String?

  @Flag(help: "Print nothing but the result.")
  var quiet = false

  private var settings: AcceleratorSoak.Settings {
    var settings = AcceleratorSoak.Settings()
    settings.flows = flows
    settings.length = .seconds(minutes * 60)
    settings.killEvery = .seconds(killEvery)
    settings.longestPauses = .seconds(pauses)
    settings.seed = seed
    settings.isDirect = direct
    settings.options = with
    settings.logFolder = logs
    return settings
  }

  func validate() throws {
    for (option, value) in [("--minutes", minutes), ("--kill-every", killEvery), ("--pauses", pauses)] {
      guard value.isFinite, abs(value) < 1e6 else { throw ValidationError("\(option) \(value): not a usable number") }
    }
    do { try settings.check() } catch { throw ValidationError(error.description) }
  }

  func run() async throws {
    if let jsonFile { try checkWritable(jsonFile, "--json") }
    let soak = AcceleratorSoak(settings, isQuiet: quiet)
    let jsonFile = self.jsonFile
    let outcome = Outcome()
    try await runUntilSignalled {
      let result = try await soak.run()
      if let jsonFile { try writeJSON(result, to: jsonFile) }
      print(result.report)
      outcome.finish(isGood: result.allFaults.isEmpty)
    }
    if let code = outcome.exitCode { throw code }
  }
}
