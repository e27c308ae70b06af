import Flows
import SettingsFiles
import Tunnel
import Vocabulary

extension AcceleratorDraft {
  /// 16 peers of one loop's connections, and as many again.
  static let maximumPeers = 64
  /// Each new flow walks through them until one matches.
  static let maximumRoutes = 1_024
  /// Of one tenant or rule.
  static let maximumListed = 64

  private static let lists = ["forwards", "peers", "routes", "limits", "tenants", "classes", "weights"]

  /// Reads one YAML file. Paths in it count from its folder.
  package init(contentsOf path: String) throws(SettingsError) {
    try self.init(try SettingsFile(contentsOf: path, help: "docs/operations/accelerator.md"))
  }

  package init(yaml: String, file: String, folder: String = "") throws(SettingsError) {
    try self.init(SettingsFile(yaml, name: file, folder: folder, help: "docs/operations/accelerator.md"))
  }

  private init(_ file: SettingsFile) throws(SettingsError) {
    self.init()
    let top = try file.reader(keys: SettingKey.all.map(\.name) + AcceleratorDraft.lists)
    for key in SettingKey.all {
      guard let text = try top.optionalText(key.name, key.expected) else { continue }
      guard key.take(key.isPath ? file.located(text) : text, &self) else { throw top.error(key.name, "\"\(text)\" is not \(key.expected)") }
    }
    peers = try AcceleratorDraft.peers(of: top)
    routes = try AcceleratorDraft.routes(of: top)
    if top.node("forwards") != nil {
      forwards = try AcceleratorDraft.values(of: top, "forwards", "ADDRESS:PORT=HOST:PORT") { EntranceSettings.Forward($0) }
    }
    tenants = try AcceleratorDraft.tenants(of: top)
    classes = try AcceleratorDraft.classes(of: top, tenants: tenants ?? [])
    weights = try AcceleratorDraft.weights(of: top)
    try takeLimits(of: top)
  }

  // MARK: Sections

  private static func peers(of top: SettingsReader) throws(SettingsError) -> [AcceleratorSettings.Peer]? {
    guard top.node("peers") != nil else { return nil }
    var peers: [AcceleratorSettings.Peer] = []
    for (path, node) in try top.list("peers", "peers: name, tunnel") {
      let reader = try SettingsReader(node, file: top.file, path: path, keys: ["name", "tunnel"])
      let name = NodeID(try reader.name("name"))
      guard !peers.contains(where: { $0.node == name }) else { throw reader.error("name", "peer \(name) is listed twice") }
      peers.append(.init(node: name, tunnel: try reader.endpoint("tunnel")))
    }
    guard peers.count <= maximumPeers else { throw top.error("peers", "more than \(maximumPeers) peers") }
    return peers
  }

  private static func routes(of top: SettingsReader) throws(SettingsError) -> [AcceleratorSettings.Route]? {
    guard top.node("routes") != nil else { return nil }
    var routes: [AcceleratorSettings.Route] = []
    for (path, node) in try top.list("routes", "routes: prefix, peer") {
      let reader = try SettingsReader(node, file: top.file, path: path, keys: ["prefix", "peer"])
      let text = try reader.text("prefix", prefixForm)
      guard let prefix = IPPrefix(text) else { throw reader.error("prefix", "\"\(text)\" is not \(prefixForm)") }
      routes.append(.init(prefix: prefix, peer: NodeID(try reader.name("peer"))))
    }
    guard routes.count <= maximumRoutes else { throw top.error("routes", "more than \(maximumRoutes) routes") }
    return routes
  }

  private mutating func takeLimits(of top: SettingsReader) throws(SettingsError) {
    guard let node = top.node("limits") else { return }
    let reader = try SettingsReader(node, file: top.file, path: "limits", keys: ["flows", "memoryMiB"])
    maximumFlows = try reader.optionalNumber("flows", AcceleratorSettings.flowRange).map { Int($0) }
    memory = try reader.optionalNumber("memoryMiB", AcceleratorSettings.memoryRange).map { Int($0) << 20 }
  }

  private static func tenants(of top: SettingsReader) throws(SettingsError) -> [Tenant]? {
    guard top.node("tenants") != nil else { return nil }
    var tenants: [Tenant] = []
    for (path, node) in try top.list("tenants", "tenants: name, prefixes or entrances, rateMbps, flows") {
      let reader = try SettingsReader(
        node, file: top.file, path: path, keys: ["name", "prefixes", "entrances", "rateMbps", "flows"])
      let name = try reader.name("name")
      guard name.utf8.count <= Tenant.maximumNameOctets else {
        throw reader.error("name", "\"\(name)\" is longer than \(Tenant.maximumNameOctets) octets")
      }
      guard !tenants.contains(where: { $0.name == name }) else { throw reader.error("name", "tenant \(name) is listed twice") }
      let tenant = Tenant(
        name: name, prefixes: try prefixes(of: reader, "prefixes"),
        entrances: try values(of: reader, "entrances", "ADDRESS:PORT") { Endpoint($0) },
        rate: try reader.optionalNumber("rateMbps", AcceleratorSettings.rateRange).map { .megabitsPerSecond($0) },
        maximumFlows: try reader.optionalNumber("flows", AcceleratorSettings.flowRange).map { Int($0) })
      tenants.append(tenant)
    }
    guard tenants.count <= Tenant.maximumCount else { throw top.error("tenants", "more than \(Tenant.maximumCount) tenants") }
    return tenants
  }

  private static func classes(of top: SettingsReader, tenants: [Tenant]) throws(SettingsError) -> FlowClassifier? {
    guard top.node("classes") != nil else { return nil }
    var rules: [FlowRule] = []
    for (path, node) in try top.list("classes", "rules: class, and ports, targets, sources or tenants") {
      let reader = try SettingsReader(node, file: top.file, path: path, keys: ["class", "ports", "targets", "sources", "tenants"])
      let expected = FlowPriority.allCases.map { "\($0)" }.joined(separator: ", ")
      let text = try reader.text("class", "one of \(expected)")
      guard let priority = FlowPriority.allCases.first(where: { "\($0)" == text }) else {
        throw reader.error("class", "\"\(text)\" is not one of \(expected)")
      }
      let rule = FlowRule(
        priority, ports: try values(of: reader, "ports", "a port or a range as 5000-5100") { ports($0) },
        targets: try prefixes(of: reader, "targets"), sources: try prefixes(of: reader, "sources"),
        tenants: try values(of: reader, "tenants", "the name of a tenant above") { name in
          tenants.contains { $0.name == name } ? name : nil
        })
      rules.append(rule)
    }
    guard rules.count <= FlowClassifier.maximumRules else { throw top.error("classes", "more than \(FlowClassifier.maximumRules) rules") }
    return FlowClassifier(rules)
  }

  private static func weights(of top: SettingsReader) throws(SettingsError) -> FlowScheduler.Weights? {
    guard let node = top.node("weights") else { return nil }
    let reader = try SettingsReader(node, file: top.file, path: "weights", keys: ["interactive", "normal", "bulk"])
    var weights = FlowScheduler.Weights()
    if let weight = try reader.optionalNumber("interactive", 1...1_000) { weights.interactive = Int(weight) }
    if let weight = try reader.optionalNumber("normal", 1...1_000) { weights.normal = Int(weight) }
    if let weight = try reader.optionalNumber("bulk", 1...1_000) { weights.bulk = Int(weight) }
    return weights
  }

  // MARK: Values

  private static let prefixForm = "a prefix, for instance 10.2.0.0/24"

  private static func prefixes(of reader: SettingsReader, _ key: String) throws(SettingsError) -> [IPPrefix] {
    try values(of: reader, key, prefixForm) { IPPrefix($0) }
  }

  private static func values<T>(
    of reader: SettingsReader, _ key: String, _ expected: String, _ read: (String) -> T?
  ) throws(SettingsError) -> [T] {
    var values: [T] = []
    for text in try reader.texts(key, expected) {
      guard let value = read(text) else { throw reader.error(key, "\"\(text)\" is not \(expected)") }
      values.append(value)
    }
    guard values.count <= maximumListed else { throw reader.error(key, "more than \(maximumListed)") }
    return values
  }

  /// `873` or `5000-5100`.
  private static func ports(_ text: String) -> ClosedRange<UInt16>? {
    let ends = text.split(separator: "-", omittingEmptySubsequences: false).map { UInt16($0) }
    guard let first = ends.first ?? nil, let last = ends.last ?? nil, ends.count <= 2, first > 0, first <= last else { return nil }
    return first...last
  }
}

extension AcceleratorSettings {
  /// A million flows is more than descriptors are had for.
  static let flowRange = 1...1_000_000.0
  /// One flow's usual window, and a terabyte.
  static let memoryRange = 16...1_048_576.0
}
