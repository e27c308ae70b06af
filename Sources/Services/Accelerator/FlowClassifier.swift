import Flows
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
