import ChunkStores
import Flows
import Sockets
import Tunnel
import Vocabulary

/// What one source says of an accelerator's settings: the command line, the environment, or a file. What it leaves out is nil, for another source to say.
package struct AcceleratorDraft: Sendable, Hashable {
  package var node: NodeID?
  package var site: SiteID?
  package var keyFile: String?
  package var certificates: String?
  package var authority: Location?
  package var entrance: Endpoint?
  package var socks: Endpoint?
  package var forwards: [EntranceSettings.Forward]?
  package var transparent: Endpoint?
  package var keepsSource: Bool?
  package var bypass: EntranceSettings.Bypass?
  package var directCongestion: EntranceSettings.Congestion?
  package var tunnel: Endpoint?
  package var probe: Endpoint?
  package var metrics: Endpoint?
  package var controller: Endpoint?
  package var peers: [AcceleratorSettings.Peer]?
  package var routes: [AcceleratorSettings.Route]?
  package var rateLimit: BitRate?
  package var connections: Int?
  package var loops: Int?
  package var compresses: Bool?
  package var cacheFolder: String?
  package var cacheSize: ByteCount?
  package var caches: Bool?
  package var keepsWarm: Bool?
  package var drain: TimeSpan?
  package var maximumFlows: Int?
  package var memory: Int?
  package var tenants: [Tenant]?
  package var classes: FlowClassifier?
  package var weights: FlowScheduler.Weights?

  package init() {}

  /// What this source says, and where it says nothing what the other does. Lists are not joined: who names peers names them all.
  package func or(_ other: AcceleratorDraft) -> AcceleratorDraft {
    var whole = other
    func take<T>(_ path: WritableKeyPath<AcceleratorDraft, T?>) {
      if let value = self[keyPath: path] { whole[keyPath: path] = value }
    }
    take(\.node)
    take(\.site)
    take(\.keyFile)
    take(\.certificates)
    take(\.authority)
    take(\.entrance)
    take(\.socks)
    take(\.forwards)
    take(\.transparent)
    take(\.keepsSource)
    take(\.bypass)
    take(\.directCongestion)
    take(\.tunnel)
    take(\.probe)
    take(\.metrics)
    take(\.controller)
    take(\.peers)
    take(\.routes)
    take(\.rateLimit)
    take(\.connections)
    take(\.loops)
    take(\.compresses)
    take(\.cacheFolder)
    take(\.cacheSize)
    take(\.caches)
    take(\.keepsWarm)
    take(\.drain)
    take(\.maximumFlows)
    take(\.memory)
    take(\.tenants)
    take(\.classes)
    take(\.weights)
    return whole
  }

  /// The settings, with the usual values where no source says anything; checked.
  package func settings() throws(AcceleratorError) -> AcceleratorSettings {
    guard let node else { throw .noName }
    var settings = AcceleratorSettings(
      node: node, site: site, keyFile: keyFile, certificates: certificates, entrance: entrance, tunnel: tunnel, probe: probe,
      peers: peers ?? [], routes: routes ?? [], rateLimit: rateLimit, controller: controller,
      loops: loops ?? AcceleratorSettings.defaultLoops, connectionsPerPeer: connections ?? AcceleratorSettings.defaultConnectionsPerPeer,
      compresses: compresses ?? true)
    settings.entrances = EntranceSettings(socks: socks, forwards: forwards ?? [])
    settings.entrances.transparent = transparent
    if let keepsSource { settings.entrances.keepsSource = keepsSource }
    if let bypass { settings.entrances.bypass = bypass }
    if let directCongestion { settings.entrances.congestion = directCongestion }
    settings.cache = caches == false ? .none : CacheSettings(folder: cacheFolder, size: cacheSize)
    settings.keepsWarm = keepsWarm ?? false
    settings.authority = authority
    settings.metrics = metrics
    settings.maximumFlows = maximumFlows
    settings.tenants = tenants ?? []
    settings.classes = classes ?? FlowClassifier()
    settings.weights = weights ?? FlowScheduler.Weights()
    if let drain { settings.drain = drain }
    if let memory { settings.memory = memory }
    try settings.check()
    return settings
  }
}

/// Where an accelerator's settings come from: flags win over the environment, and that over the file. They can be read again while it runs.
package struct AcceleratorSource: Sendable {
  private let flags: AcceleratorDraft
  private let environment: [String: String]
  private let file: String?

  /// - Parameter file: the flag's; without one the environment may name it.
  package init(flags: AcceleratorDraft, environment: [String: String], file: String?) {
    self.flags = flags
    self.environment = environment
    self.file = file ?? environment["LONGHAUL_CONFIG"]
  }

  /// Throws `SettingsError` or `AcceleratorError`, each a whole line for a person.
  package func read() throws -> AcceleratorSettings {
    var draft = flags.or(try AcceleratorDraft(environment: environment))
    if let file { draft = draft.or(try AcceleratorDraft(contentsOf: file)) }
    return try draft.settings()
  }
}
