import Control
import Vocabulary

/// What `GET /v1/status` says.
package struct StatusDocument: Codable, Sendable, Hashable {
  package struct Place: Codable, Sendable, Hashable {
    package var site: SiteID
    package var agent: Endpoint
    package var hypervisor: String
    /// In QEMU's words; nil while there is no connection.
    package var guest: String?
  }

  package struct Machine: Codable, Sendable, Hashable {
    package var machine: MachineID
    /// Where it runs, as far as its hypervisors say so.
    package var home: SiteID?
    package var places: [Place]
    /// The migration under way.
    package var migration: MigrationID?
  }

  package var version: String
  package var uptimeSeconds: Double
  package var machines: [Machine]
  package var nodes: Int
  package var connectedNodes: Int
}

/// One element of `GET /v1/nodes`.
package struct NodeDocument: Codable, Sendable, Hashable {
  package var description: NodeDescription
  package var isConnected: Bool
  /// Since it registered, opened its stream of orders, or lost it.
  package var sinceSeconds: Double
}

/// One element of `GET /v1/paths`.
package struct PathDocument: Codable, Sendable, Hashable {
  package var from: SiteID
  package var to: SiteID
  package var roundTripMilliseconds: Double?
  package var smoothedRoundTripMilliseconds: Double?
  package var roundTripVariationMilliseconds: Double?
  package var rateMegabitsPerSecond: Double?
  /// What the settings say.
  package var configuredRateMegabitsPerSecond: Double?
  package var lossPercent: Double?
  package var ageSeconds: Double?
  package var isStale: Bool
  /// Why the last probe failed, until one succeeds.
  package var trouble: String?
  /// `direct`, or the accelerators in their order.
  package var route: [NodeID]
  package var isAccelerated: Bool
  /// Why, in words and figures; nil if nothing was decided yet.
  package var reason: String?
}
