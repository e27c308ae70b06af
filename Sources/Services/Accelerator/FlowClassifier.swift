import Tunnel
import Vocabulary

/// One line of `classes:`: flows that match it have its class. Of each kind that is given one must match; a kind that is not given matches all.
package struct FlowRule: Sendable, Hashable {
  package var priority: FlowPriority
  /// Ports of targets.
  package var ports: [ClosedRange<UInt16>]
  package var targets: [IPPrefix]
  package var sources: [IPPrefix]
  package var tenants: [String]

  package init(
    _ priority: FlowPriority, ports: [ClosedRange<UInt16>] = [], targets: [IPPrefix] = [], sources: [IPPrefix] = [], tenants: [String] = []
  ) {
    self.priority = priority
    self.ports = ports
    self.targets = targets
    self.sources = sources
    self.tenants = tenants
  }

  func matches(_ target: Endpoint, source: IPAddress?, tenant: String) -> Bool {
    (ports.isEmpty || ports.contains { $0.contains(target.port) })
      && (targets.isEmpty || targets.contains { $0.contains(target.address) })
      && (sources.isEmpty || source.map { address in sources.contains { $0.contains(address) } } == true)
      && (tenants.isEmpty || tenants.contains(tenant))
  }
}

/// Which flows go first: by rule where the settings have one, by what a flow does where they have none.
package struct FlowClassifier: Sendable, Hashable {
  /// A table that is walked through for each new flow: 64 lines of comparisons are some microseconds.
  package static let maximumRules = 64

  package var rules: [FlowRule]

  package init(_ rules: [FlowRule] = []) { self.rules = rules }

  /// The class of the first rule that matches; nil: by what the flow does (`FlowPace`).
  package func priority(of target: Endpoint, source: IPAddress?, tenant: String) -> FlowPriority? {
    rules.first { $0.matches(target, source: source, tenant: tenant) }?.priority
  }
}

/// The class of a flow that no rule speaks of: interactive until it has moved more than 256 KiB within a second, normal from then on.
///
/// A page or a command's output fits into that; a download of more than 2 Mbit/s does not. It does not become interactive again: a download that pauses is
/// still a download, and a flow that changed its class at every pause would be reordered against itself.
package struct FlowPace: Sendable, Hashable {
  package static let octets = 256 << 10
  package static let span = TimeSpan.seconds(Int64(1))

  package private(set) var priority = FlowPriority.interactive
  private var began: Instant?
  private var moved = 0

  package init() {}

  /// So many octets have passed, in either direction.
  package mutating func note(_ count: Int, at now: Instant) {
    guard priority == .interactive else { return }
    if let began, now - began < FlowPace.span {
      moved += count
    } else {
      began = now
      moved = count
    }
    if moved > FlowPace.octets { priority = .normal }
  }
}
