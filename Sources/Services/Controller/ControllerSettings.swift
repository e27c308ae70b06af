import Hypervisors
import Placement
import Vocabulary

/// What a controller is told: the places, the machines, and the rule for paths.
package struct ControllerSettings: Sendable {
  /// A site, and who answers probes there while no accelerator does.
  package struct Site: Sendable, Hashable {
    package var name: SiteID
    package var probe: Endpoint?
    /// What lies there: accelerators elsewhere send flows for it through their tunnel to the one there.
    package var prefixes: [IPPrefix]

    package init(name: SiteID, probe: Endpoint? = nil, prefixes: [IPPrefix] = []) {
      self.name = name
      self.probe = probe
      self.prefixes = prefixes
    }
  }

  package struct Place: Sendable, Hashable {
    package var site: SiteID
    /// Where the machine's agent answers while the machine runs here.
    package var agent: Endpoint
    package var hypervisor: QMPAddress

    package init(site: SiteID, agent: Endpoint, hypervisor: QMPAddress) {
      self.site = site
      self.agent = agent
      self.hypervisor = hypervisor
    }
  }

  package struct Machine: Sendable, Hashable {
    package var name: MachineID
    package var places: [Place]

    package init(name: MachineID, places: [Place]) {
      self.name = name
      self.places = places
    }
  }

  /// One request a second and place: a prober's round trip is 100 octets, and ten of them fill the estimate's window.
  package static let defaultProbeInterval = TimeSpan.seconds(1 as Int64)

  package var listen: Endpoint
  /// The file with the key that all nodes share. Nil: they all have certificates.
  package var keyFile: String?
  /// The folder with this controller's certificate (`longhaul pki`), with which it signs GO and speaks TLS; nil: GO has only a MAC, and the API is in the clear.
  package var certificates: String?
  package var sites: [Site]
  package var machines: [Machine]
  package var placement: PlacementSettings
  /// What the operator knows of the rate between two sites, in either direction unless both are given.
  package var pathRates: [String: BitRate]
  package var probeInterval: TimeSpan

  package init(
    listen: Endpoint, keyFile: String? = nil, certificates: String? = nil, sites: [Site], machines: [Machine],
    placement: PlacementSettings = PlacementSettings(),
    pathRates: [String: BitRate] = [:], probeInterval: TimeSpan = ControllerSettings.defaultProbeInterval
  ) {
    self.listen = listen
    self.keyFile = keyFile
    self.certificates = certificates
    self.sites = sites
    self.machines = machines
    self.placement = placement
    self.pathRates = pathRates
    self.probeInterval = probeInterval
  }

  /// The name of a path's rate: `access-center2`.
  package static func rateKey(_ from: SiteID, _ to: SiteID) -> String { "\(from)-\(to)" }
}
