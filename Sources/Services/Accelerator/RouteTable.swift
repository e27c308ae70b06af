import Vocabulary

/// Which peer covers an address: the longest prefix wins, of two equal ones the first given.
struct RouteTable: Sendable {
  private let routes: [AcceleratorSettings.Route]

  init(_ routes: [AcceleratorSettings.Route]) {
    // Stable: `sorted` keeps no order among equals by contract, the offset does.
    self.routes = routes.enumerated()
      .sorted { ($1.element.prefix.length, $0.offset) < ($0.element.prefix.length, $1.offset) }
      .map(\.element)
  }

  func peer(for address: IPAddress) -> NodeID? { routes.first { $0.prefix.contains(address) }?.peer }
}
