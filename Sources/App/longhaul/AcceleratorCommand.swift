import Accelerator
import ArgumentParser
import CommandSupport
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

struct AcceleratorCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "run",
    abstract: "Splits TCP connections at the edge of a WAN, and carries them to its peers in warm, paced, compressed tunnels.")

  @Option(help: "The accelerator's name, as its peers and the controller use it.")
  var node: NodeID?

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

  @Option(help: "Tunnel connections to each peer (default: \(AcceleratorSettings.defaultConnectionsPerPeer)).")
  var connections: Int?

  @Option(help: "Event loops: one for each core that the accelerator may use.")
  var loops: Int?

  @Flag(name: .customLong("no-compression"), help: "Send data as it is, in both directions.")
  var isPlain = false

  @Option(help: "The controller, ADDRESS:PORT. Without one the accelerator follows its options alone.")
  var controller: Endpoint?

  @OptionGroup var cache: CacheOptions

  @OptionGroup var operation: OperationOptions

  @OptionGroup var warming: WarmingOptions

  @OptionGroup var log: LogOptions

  func validate() throws {
    if warming.keepsWarm, rateLimit == nil {
      throw ValidationError("--keep-warm needs --rate-limit: what is to be kept ready is a rate")
    }
    if let rateLimit, !(0.1...1_000_000).contains(rateLimit) {
      throw ValidationError("--rate-limit \(rateLimit): must be from 0.1 to 1000000 Mbit/s")
    }
    if let connections, !AcceleratorSettings.connectionRange.contains(connections) {
      throw ValidationError("--connections \(connections): must be from 1 to 64")
    }
    if let loops, !AcceleratorSettings.loopRange.contains(loops) { throw ValidationError("--loops \(loops): must be from 1 to 256") }
    do {
      _ = try source.read()
    } catch {
      throw ValidationError("\(error)")
    }
  }

  func run() async throws {
    let source = source
    let settings = try source.read()
    let logger = log.logger("accelerator")
    let service = AcceleratorService(settings: settings, logger: logger)
    let upkeep = keepFresh(settings.certificates, from: settings.authority, logger: logger)
    defer { upkeep?.cancel() }
    try await runUntilSignalled(
      drain: { service.drain() }, reload: { Task { await service.reload { try source.read() } } }
    ) { try await service.run() }
  }

  private var source: AcceleratorSource {
    AcceleratorSource(flags: flags, environment: ProcessInfo.processInfo.environment, file: operation.settingsFile)
  }

  private var flags: AcceleratorDraft {
    var draft = AcceleratorDraft()
    draft.node = node
    draft.site = site
    draft.keyFile = keyFile
    draft.certificates = certificate.certificates
    draft.authority = certificate.authority
    draft.entrance = entrance
    draft.tunnel = tunnel
    draft.probe = probe
    draft.metrics = operation.metrics
    draft.controller = controller
    draft.peers = peers.isEmpty ? nil : peers
    draft.routes = routes.isEmpty ? nil : routes
    draft.rateLimit = rateLimit.map { .megabitsPerSecond($0) }
    draft.connections = connections
    draft.loops = loops
    draft.compresses = isPlain ? false : nil
    draft.cacheFolder = cache.folder
    draft.cacheSize = cache.size
    draft.caches = cache.isOff ? false : nil
    draft.keepsWarm = warming.keepsWarm ? true : nil
    entrances.fill(&draft)
    draft.drain = operation.drain.map { .seconds($0) }
    return draft
  }
}

extension AcceleratorSettings.Peer: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}

extension AcceleratorSettings.Route: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}
