import ArgumentParser
import Authentication
import CommandSupport

@main
struct Longhaul: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "longhaul",
    abstract: "Keeps the TCP sessions of clients alive and fast while the virtual machine that serves them is live-migrated far away.",
    version: "0.1.0",
    subcommands: [
      AgentCommand.self, ClientCommand.self, AcceleratorCommands.self, ControllerCommand.self, StatusCommand.self, FlowsCommand.self,
      LabCommand.self,
      SCTPCommand.self, BenchCommand.self,
      KeygenCommand.self, PKICommand.self,
    ])
}

struct KeygenCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "keygen", abstract: "Prints a new endpoint key: keep it in a file that only the owner reads, the same on every node.")

  func run() { print(EndpointKey.newLine()) }
}
