import Hypervisors
import Placement
import SettingsFiles
import Vocabulary

extension ControllerSettings {
  /// 64 sites fill the table of paths (64 x 64 = 4,096), and 256 machines are 512 connections to hypervisors.
  static let maximumSites = 64
  static let maximumMachines = 256
  /// A machine with more places than sites would name one twice.
  static let maximumPlaces = 64
  /// Of one site; a map of 64 accelerators with as many each is 80 KiB, and an order has at most 256.
  static let maximumPrefixes = 64
  /// A unix socket's path (`sun_path`) has 108 octets, the last of which is zero.
  static let maximumSocketPath = 107
  private static let help = "docs/operations/controller.md"

  /// Reads one YAML file. Files that it names are found from its folder.
  package init(contentsOf path: String) throws(ControllerError) {
    do throws(SettingsError) {
      try self.init(try SettingsFile(contentsOf: path, help: ControllerSettings.help))
    } catch {
      throw .settings(error)
    }
  }

  /// `folder` is what relative paths are put behind; empty, or ending in a slash.
  package init(yaml: String, file: String, folder: String = "") throws(ControllerError) {
    do throws(SettingsError) {
      try self.init(SettingsFile(yaml, name: file, folder: folder, help: ControllerSettings.help))
    } catch {
      throw .settings(error)
    }
  }

  private init(_ file: SettingsFile) throws(SettingsError) {
    let top = try file.reader(
      keys: ["listen", "keyFile", "certificates", "sites", "machines", "placement", "pathRates", "probeIntervalMilliseconds"])
    let keyFile = try top.optionalText("keyFile", "the file with the endpoint key").map(file.located)
    let certificates = try top.optionalText("certificates", "the folder with the controller's certificate").map(file.located)
    guard keyFile != nil || certificates != nil else {
      throw top.missing("certificates", "the folder with the controller's certificate, or `keyFile`, the file with the endpoint key")
    }
    let sites = try ControllerSettings.sites(of: top)
    self.init(
      listen: try top.endpoint("listen"), keyFile: keyFile,
      certificates: certificates, sites: sites,
      machines: try ControllerSettings.machines(of: top, sites: sites, located: file.located),
      placement: try ControllerSettings.placement(of: top), pathRates: try ControllerSettings.pathRates(of: top, sites: sites))
    if let interval = try top.optionalNumber("probeIntervalMilliseconds", 100...60_000) { probeInterval = .milliseconds(interval) }
  }

  // MARK: Sections

  private static func sites(of top: SettingsReader) throws(SettingsError) -> [Site] {
    var sites: [Site] = []
    for (path, node) in try top.list("sites", "sites: name, probe, prefixes") {
      let reader = try SettingsReader(node, file: top.file, path: path, keys: ["name", "probe", "prefixes"])
      let name = SiteID(try reader.name("name"))
      guard !sites.contains(where: { $0.name == name }) else { throw reader.error("name", "site \(name) is listed twice") }
      sites.append(Site(name: name, probe: try reader.optionalEndpoint("probe"), prefixes: try prefixes(of: reader)))
    }
    guard !sites.isEmpty else { throw top.missing("sites", "a list of sites, each with a name") }
    guard sites.count <= maximumSites else { throw top.error("sites", "more than \(maximumSites) sites") }
    return sites
  }

  private static func prefixes(of reader: SettingsReader) throws(SettingsError) -> [IPPrefix] {
    let form = "a prefix, for instance 10.2.0.0/24"
    var prefixes: [IPPrefix] = []
    for text in try reader.texts("prefixes", form) {
      guard let prefix = IPPrefix(text) else { throw reader.error("prefixes", "\"\(text)\" is not \(form)") }
      prefixes.append(prefix)
    }
    guard prefixes.count <= maximumPrefixes else { throw reader.error("prefixes", "more than \(maximumPrefixes)") }
    return prefixes
  }

  private static func machines(
    of top: SettingsReader, sites: [Site], located: (String) -> String
  ) throws(SettingsError) -> [Machine] {
    var machines: [Machine] = []
    for (path, node) in try top.list("machines", "machines: name, places") {
      let reader = try SettingsReader(node, file: top.file, path: path, keys: ["name", "places"])
      let name = MachineID(try reader.name("name"))
      guard !machines.contains(where: { $0.name == name }) else { throw reader.error("name", "machine \(name) is listed twice") }
      var places: [Place] = []
      for (path, node) in try reader.list("places", "places: site, agent, hypervisor") {
        let place = try self.place(
          try SettingsReader(node, file: top.file, path: path, keys: ["site", "agent", "hypervisor"]), sites, located)
        guard !places.contains(where: { $0.site == place.site }) else {
          throw reader.error("places", "\(place.site) is listed twice for machine \(name)")
        }
        places.append(place)
      }
      guard (2...maximumPlaces).contains(places.count) else {
        throw reader.error("places", "a machine that migrates has at least two places (site, agent, hypervisor)")
      }
      machines.append(Machine(name: name, places: places))
    }
    guard !machines.isEmpty else { throw top.missing("machines", "a list of machines, each with a name and places") }
    guard machines.count <= maximumMachines else { throw top.error("machines", "more than \(maximumMachines) machines") }
    return machines
  }

  private static func place(
    _ reader: SettingsReader, _ sites: [Site], _ located: (String) -> String
  ) throws(SettingsError) -> Place {
    let site = SiteID(try reader.name("site"))
    guard sites.contains(where: { $0.name == site }) else {
      throw reader.error("site", "\(site) is not among the sites (\(sites.map(\.name.text).joined(separator: ", ")))")
    }
    let text = try reader.text("hypervisor", "unix:PATH or tcp:ADDRESS:PORT, a QMP socket")
    guard var hypervisor = QMPAddress(text) else {
      throw reader.error("hypervisor", "\"\(text)\" is neither unix:PATH nor tcp:ADDRESS:PORT")
    }
    if case .unix(let path) = hypervisor {
      hypervisor = .unix(located(path))
      guard located(path).utf8.count <= maximumSocketPath else {
        throw reader.error("hypervisor", "a unix socket's path has at most \(maximumSocketPath) octets")
      }
    }
    return Place(site: site, agent: try reader.endpoint("agent"), hypervisor: hypervisor)
  }

  private static func placement(of top: SettingsReader) throws(SettingsError) -> PlacementSettings {
    var settings = PlacementSettings()
    guard let node = top.node("placement") else { return settings }
    let reader = try SettingsReader(
      node, file: top.file, path: "placement",
      keys: ["delayThresholdMilliseconds", "rateThresholdMbps", "hysteresis", "holdSeconds"])
    if let delay = try reader.optionalNumber("delayThresholdMilliseconds", 0...60_000) { settings.delayThreshold = .milliseconds(delay) }
    if let rate = try reader.optionalNumber("rateThresholdMbps", 0...1_000_000) { settings.rateThreshold = .megabitsPerSecond(rate) }
    if let hysteresis = try reader.optionalNumber("hysteresis", 0.1...1) { settings.hysteresis = hysteresis }
    if let hold = try reader.optionalNumber("holdSeconds", 0...86_400) { settings.holdTime = .seconds(hold) }
    return settings
  }

  private static func pathRates(of top: SettingsReader, sites: [Site]) throws(SettingsError) -> [String: BitRate] {
    guard let node = top.node("pathRates") else { return [:] }
    let pairs = sites.flatMap { from in sites.filter { $0.name != from.name }.map { rateKey(from.name, $0.name) } }
    let reader = try SettingsReader(node, file: top.file, path: "pathRates", keys: pairs)
    var rates: [String: BitRate] = [:]
    for pair in pairs {
      guard let rate = try reader.optionalNumber(pair, 0.001...1_000_000) else { continue }
      // Hyphens may stand in names, too: a-b and c, a and b-c.
      guard pairs.count(where: { $0 == pair }) == 1 else { throw reader.error(pair, "names two paths; rename a site") }
      rates[pair] = .megabitsPerSecond(rate)
    }
    return rates
  }
}
