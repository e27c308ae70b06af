import Vocabulary

/// Whose flows are told apart from others': limits, names of chunks and figures are kept by it.
package struct Tenant: Sendable, Hashable {
  /// A name travels in every OPEN (`TunnelLimits.tenantOctets`).
  package static let maximumNameOctets = 32
  /// As many as figures are kept for.
  package static let maximumCount = 64

  package var name: String
  /// Clients in one of these are this tenant's.
  package var prefixes: [IPPrefix]
  /// So is whoever comes in here.
  package var entrances: [Endpoint]
  /// What all its flows together send through this accelerator, and, apart from that, are sent; nil: no limit.
  package var rate: BitRate?
  /// How many flows it may have at once; nil: no limit of its own.
  package var maximumFlows: Int?

  package init(
    name: String, prefixes: [IPPrefix] = [], entrances: [Endpoint] = [], rate: BitRate? = nil, maximumFlows: Int? = nil
  ) {
    self.name = name
    self.prefixes = prefixes
    self.entrances = entrances
    self.rate = rate
    self.maximumFlows = maximumFlows
  }
}

/// Whose a connection at an entrance is.
package struct TenantTable: Sendable {
  private let prefixes: [(prefix: IPPrefix, tenant: String)]
  private let entrances: [(entrance: Endpoint, tenant: String)]

  package init(_ tenants: [Tenant]) {
    // The longest prefix first, of two equal ones the first given: as routes are.
    prefixes = tenants.flatMap { tenant in tenant.prefixes.map { ($0, tenant.name) } }.enumerated()
      .sorted { ($1.element.0.length, $0.offset) < ($0.element.0.length, $1.offset) }
      .map(\.element)
    entrances = tenants.flatMap { tenant in tenant.entrances.map { ($0, tenant.name) } }
  }

  /// The client's own address decides before the entrance that it came in at. Empty: nobody's in particular.
  package func tenant(source: IPAddress?, entrance: Endpoint?) -> String {
    if let source, let found = prefixes.first(where: { $0.prefix.contains(source) }) { return found.tenant }
    guard let entrance else { return "" }
    return entrances.first { $0.entrance.port == entrance.port && ($0.entrance.address == entrance.address || $0.entrance.address.isAny) }?
      .tenant
      ?? ""
  }
}

extension IPAddress {
  /// 0.0.0.0 or ::, which as a place to listen means every address of the machine.
  var isAny: Bool { self == .v4(0) || self == .v6(high: 0, low: 0) }
}
