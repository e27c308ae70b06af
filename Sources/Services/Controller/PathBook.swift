import Control
import Paths
import Placement
import Vocabulary

/// What is known of every path, and what was decided for it.
struct PathBook {
  /// An hour and a Tbit/s: what a report says beyond these was not measured.
  private static let longestRoundTrip = 3_600_000.0
  private static let highestRate = 1_000_000.0
  /// What a tunnel is warmed for when neither a measurement nor the settings tell a path's rate. Half of today's leased lines are faster; a tunnel that is
  /// warmed for too little grows while it is used.
  private static let assumedRate = BitRate.megabitsPerSecond(100)

  private let settings: ControllerSettings
  private let sites: Set<SiteID>
  private(set) var table = PathTable()
  private var rules: [PathID: PlacementRule] = [:]
  private(set) var decisions: [PathID: PlacementDecision] = [:]

  init(settings: ControllerSettings) {
    self.settings = settings
    sites = Set(settings.sites.map(\.name))
  }

  // MARK: Samples

  /// False for figures that cannot have been measured, or for a site that we do not know.
  mutating func measured(_ path: PathID, roundTripMilliseconds: Double, rateMegabitsPerSecond: Double?, at now: Instant) -> Bool {
    guard isKnown(path), (0...PathBook.longestRoundTrip).contains(roundTripMilliseconds) else { return false }
    table.add(.roundTrip(.milliseconds(roundTripMilliseconds)), to: path, at: now)
    if let rate = rateMegabitsPerSecond, rate > 0, rate <= PathBook.highestRate {
      table.add(.rate(.megabitsPerSecond(rate)), to: path, at: now)
    }
    return true
  }

  mutating func unreachable(_ path: PathID, reason: String, at now: Instant) {
    guard isKnown(path) else { return }
    table.add(.lost, to: path, at: now)
    table.noteTrouble(reason, on: path)
  }

  private func isKnown(_ path: PathID) -> Bool { path.from != path.to && sites.contains(path.from) && sites.contains(path.to) }

  // MARK: Decisions

  /// Decides the path by its rule, which remembers; `near` and `far` are the accelerators at its two ends.
  mutating func decide(_ path: PathID, near: PlaceableAccelerator?, far: PlaceableAccelerator?, at now: Instant) -> PlacementDecision {
    let decision = rules[path, default: PlacementRule(path: path, settings: settings.placement)]
      .decide(by: table.estimate(of: path, at: now), near: near, far: far, at: now)
    decisions[path] = decision
    return decision
  }

  /// The decision as a handover needs it.
  func clientPath(_ decision: PlacementDecision, on path: PathID) -> ClientPath {
    guard case .through(let near, let far) = decision.route else { return ClientPath(choice: .direct, reason: decision.reason) }
    let tunnel = WarmTunnel(
      accelerator: near.node, peer: far.node, rate: rate(of: path, measured: decision.estimate?.rate),
      roundTripMilliseconds: decision.estimate?.roundTrip.milliseconds ?? 0)
    return ClientPath(
      choice: .accelerated(entrance: near.entrance, accelerators: [near.node, far.node]), reason: decision.reason, warm: [tunnel])
  }

  /// The operator's word first: a probe's train can be slowed down by others, or end in a buffer.
  private func rate(of path: PathID, measured: BitRate?) -> BitRate {
    configuredRate(of: path) ?? measured ?? PathBook.assumedRate
  }

  func configuredRate(of path: PathID) -> BitRate? {
    settings.pathRates[ControllerSettings.rateKey(path.from, path.to)] ?? settings.pathRates[ControllerSettings.rateKey(path.to, path.from)]
  }
}
