import ArgumentParser
import CommandSupport
import Controller

struct ControllerCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "controller",
    abstract: "Watches hypervisors and paths, decides where accelerators are inserted, and tells nodes when to move.")

  @Option(name: .customLong("config"), help: "The settings, a YAML file; docs/operations/controller.md describes it.")
  var settingsFile: String

  @OptionGroup var log: LogOptions

  func run() async throws {
    let settings = try ControllerSettings(contentsOf: settingsFile)
    let service = ControllerService(settings: settings, logger: log.logger("controller"))
    try await runUntilSignalled { try await service.run() }
  }
}
