import Accelerator
import ArgumentParser
import CommandSupport
import Vocabulary

struct AcceleratorCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "accelerator",
    abstract: "Splits TCP connections at the edge of a WAN, and carries them to its peers in warm, paced, compressed tunnels.")

  @Option(help: "The accelerator's name, as its peers and the controller use it.")
  var node: NodeID

  @Option(help: "The site that the accelerator stands in.")
  var site: SiteID?

  @Option(help: "The file with the endpoint key (see `longhaul keygen`), where there are no certificates.")
  var keyFile: String?

  @OptionGroup var certificate: CertificateOptions

  @Option(help: "Where applications and clients come in by HTTP CONNECT, ADDRESS:PORT.")
  var entrance: Endpoint?

  @OptionGroup var entrances: EntranceOptions

  @Option(help: "Where peers' tunnels come in, ADDRESS:PORT.")
  var tunnel: Endpoint?

  @Option(help: "Where probes are answered, ADDRESS:PORT.")
  var probe: Endpoint?

  @Option(name: .customLong("peer"), help: "Another accelerator and where it takes tunnels, NAME=ADDRESS:PORT; may be given several times.")
  var peers: [AcceleratorSettings.Peer] = []

  @Option(
    name: .customLong("route"), help: "Targets that lie behind a peer, PREFIX=PEER; may be given several times, the longest prefix wins.")
  var routes: [AcceleratorSettings.Route] = []

  @Option(
    help: "Mbit/s that all tunnel connections to one peer send together: about 96 % of the path's rate; else congestion control decides.")
  var rateLimit: Double?

  @Option(help: "Tunnel connections to each peer.")
  var connections = AcceleratorSettings.defaultConnectionsPerPeer

  @Option(help: "Event loops: one for each core that the accelerator may use.")
  var loops = AcceleratorSettings.defaultLoops

  @Flag(name: .customLong("no-compression"), help: "Send data as it is, in both directions.")
  var isPlain = false

  @Option(help: "The controller, ADDRESS:PORT. Without one the accelerator follows its options alone.")
  var controller: Endpoint?

  @OptionGroup var cache: CacheOptions

  @OptionGroup var log: LogOptions

  func validate() throws {
    if let rateLimit, !(0.1...1_000_000).contains(rateLimit) {
      throw ValidationError("--rate-limit \(rateLimit): must be from 0.1 to 1000000 Mbit/s")
    }
    // What one peer accepts of all its callers together on one loop is `Shard.maximumAccepted`, 64.
    if !(1...64).contains(connections) { throw ValidationError("--connections \(connections): must be from 1 to 64") }
    if !(1...256).contains(loops) { throw ValidationError("--loops \(loops): must be from 1 to 256") }
    do {
      try settings.check()
    } catch {
      throw ValidationError("\(error)")
    }
  }

  func run() async throws {
    let service = AcceleratorService(settings: settings, logger: log.logger("accelerator"))
    let upkeep = certificate.upkeep(logger: log.logger("accelerator"))
    defer { upkeep?.cancel() }
    try await runUntilSignalled { try await service.run() }
  }

  private var settings: AcceleratorSettings {
    var settings = AcceleratorSettings(
      node: node, site: site, keyFile: keyFile, certificates: certificate.certificates, entrance: entrance, tunnel: tunnel, probe: probe,
      peers: peers,
      routes: routes,
      rateLimit: rateLimit.map { .megabitsPerSecond($0) }, controller: controller, loops: loops, connectionsPerPeer: connections,
      compresses: !isPlain)
    settings.entrances = entrances.settings
    settings.cache = cache.settings
    return settings
  }
}

extension AcceleratorSettings.Peer: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

extension AcceleratorSettings.Route: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}
