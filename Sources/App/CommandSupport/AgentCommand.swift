import Agent
import ArgumentParser
import ChunkStores
import Vocabulary

/// `longhaul agent`, and the whole of `longhaul-agent`.
package struct AgentCommand: AsyncParsableCommand {
  package static let configuration = CommandConfiguration(
    commandName: "agent", abstract: "Ends the sessions of clients inside a virtual machine and connects their flows to its services.")

  @Option(help: "Where carriers are accepted, ADDRESS:PORT.")
  package var listen = Endpoint(address: .v4(0), port: 7600)

  @Option(help: "The file with the endpoint key (see `longhaul keygen`).")
  package var keyFile: String?

  @OptionGroup package var certificate: CertificateOptions

  @Option(help: "The machine's name, as clients use it.")
  package var machine: MachineID

  @Option(help: "The agent's name at the controller; the machine's if not given.")
  package var node: NodeID?

  @Option(help: "The controller, ADDRESS:PORT. Without one the agent only serves sessions.")
  package var controller: Endpoint?

  @Option(help: "An address of this machine, present or future; may be given several times.")
  package var address: [IPAddress] = []

  @Option(help: "The largest receive window of a carrier, in octets; without it the kernel decides.")
  package var carrierWindow: Int?

  @Flag(name: .customLong("no-compression"), help: "Send data of sealed sessions as it is, and keep no byte cache.")
  package var isPlain = false

  @OptionGroup package var cache: CacheOptions

  @OptionGroup package var log: LogOptions

  package init() {}

  package func validate() throws {
    if keyFile == nil, certificate.certificates == nil {
      throw ValidationError("--certificates DIR or --key-file FILE is missing (see `longhaul pki` and `longhaul keygen`)")
    }
    if let carrierWindow, !(4_096...(1 << 30)).contains(carrierWindow) {
      throw ValidationError("--carrier-window \(carrierWindow): must be from 4096 to 1073741824 octets")
    }
  }

  package func run() async throws {
    var settings = AgentSettings(
      listen: listen, keyFile: keyFile, certificates: certificate.certificates, machine: machine, node: node, controller: controller,
      addresses: address,
      carrierWindow: carrierWindow)
    settings.compresses = !isPlain
    settings.cache = cache.settings(memory: CacheSettings.agentMemory)
    let service = AgentService(settings: settings, logger: log.logger("agent"))
    let upkeep = certificate.upkeep(logger: log.logger("agent"))
    defer { upkeep?.cancel() }
    try await runUntilSignalled { try await service.run() }
  }
}
