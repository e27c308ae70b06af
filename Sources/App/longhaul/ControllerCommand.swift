import ArgumentParser
import CommandSupport
import Controller
import Sockets

struct ControllerCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "controller",
    abstract: "Watches hypervisors and paths, decides where accelerators are inserted, and tells nodes when to move.")

  @Option(name: .customLong("config"), help: "The settings, a YAML file; docs/operations/controller.md describes it.")
  var settingsFile: String

  @Option(
    help:
      "Where `longhaul pki serve` answers, ADDRESS:PORT: the certificate of the settings is renewed, and revocations are fetched, from there."
  )
  var authority: Location?

  @OptionGroup var log: LogOptions

  func run() async throws {
    let settings = try ControllerSettings(contentsOf: settingsFile)
    let service = ControllerService(settings: settings, logger: log.logger("controller"))
    let upkeep = keepFresh(settings.certificates, from: authority, logger: log.logger("controller"))
    defer { upkeep?.cancel() }
    try await runUntilSignalled { try await service.run() }
  }
}
