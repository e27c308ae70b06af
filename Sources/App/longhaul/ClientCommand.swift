import ArgumentParser
import ChunkStores
import Client
import CommandSupport
import Vocabulary

struct ClientCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "client", abstract: "Takes applications in and carries their connections to virtual machines, wherever these are.")

  @Option(help: "The client's name at the controller; with --certificates the name in its certificate, otherwise \"client\".")
  var node: NodeID?

  @Option(help: "The site that the client stands in.")
  var site: SiteID?

  @Option(name: .customLong("vm"), help: "A machine and where its agent answers, NAME=ADDRESS:PORT; may be given several times.")
  var machines: [ClientSettings.Machine]

  @Option(help: "The file with the endpoint key (see `longhaul keygen`).")
  var keyFile: String?

  @OptionGroup var certificate: CertificateOptions

  @Option(help: "Where SOCKS5 is spoken, ADDRESS:PORT.")
  var socks: Endpoint?

  @Option(help: "Where HTTP CONNECT is spoken, ADDRESS:PORT.")
  var httpConnect: Endpoint?

  @Option(
    name: .customLong("forward"),
    help: "A static forward, ADDRESS:PORT=MACHINE:PORT, or with ranges of ports ADDRESS:A-B=MACHINE:C-D; may be given several times.")
  var forwards: [ClientSettings.Forward] = []

  @Option(help: "The controller, ADDRESS:PORT. Without one the client recovers by what its machines have announced.")
  var controller: Endpoint?

  @Option(help: "The largest receive window of a carrier, in octets; without it the kernel decides.")
  var carrierWindow: Int?

  @Option(help: "Seconds within which the first session of each machine must be up.")
  var connectLimit: Double = 10

  @Flag(name: .customLong("no-compression"), help: "Send data of sealed sessions as it is, and keep no byte cache.")
  var isPlain = false

  @OptionGroup var cache: CacheOptions

  @OptionGroup var log: LogOptions

  func validate() throws {
    if keyFile == nil, certificate.certificates == nil {
      throw ValidationError("--certificates DIR or --key-file FILE is missing (see `longhaul pki` and `longhaul keygen`)")
    }
    if machines.isEmpty { throw ValidationError("--vm NAME=ADDRESS:PORT is missing: which machine's agent should the client join?") }
    if let carrierWindow, !(4_096...(1 << 30)).contains(carrierWindow) {
      throw ValidationError("--carrier-window \(carrierWindow): must be from 4096 to 1073741824 octets")
    }
    if !(0.1...3_600).contains(connectLimit) { throw ValidationError("--connect-limit \(connectLimit): must be from 0.1 to 3600 seconds") }
  }

  func run() async throws {
    var settings = ClientSettings(
      node: node, site: site, machines: machines, keyFile: keyFile, certificates: certificate.certificates, socks: socks,
      httpConnect: httpConnect,
      forwards: forwards,
      controller: controller, carrierWindow: carrierWindow, connectLimit: .seconds(connectLimit))
    settings.compresses = !isPlain
    settings.cache = cache.settings(memory: CacheSettings.clientMemory)
    let service = ClientService(settings: settings, logger: log.logger("client"))
    let upkeep = certificate.upkeep(logger: log.logger("client"))
    defer { upkeep?.cancel() }
    try await runUntilSignalled { try await service.run() }
  }
}

extension ClientSettings.Machine: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

extension ClientSettings.Forward: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}
