import Control
import Vocabulary

/// The map of accelerators: each is told where the others take tunnels, and what lies beside them.
extension ControllerCore {
  /// As many peers as an accelerator's settings may name.
  static let maximumPeers = 64

  /// Tells each accelerator its map, if that changed. One whose link is lost stays on the others' maps until it counts as gone for good: its tunnels may well stand.
  func spreadMap() {
    for entry in nodes.all where entry.description.role == .accelerator {
      let map = map(for: entry.description)
      guard map != entry.map else { continue }
      nodes.setMap(map, of: entry.description.node)
      send(.peers(map: map), to: entry.description.node)
    }
  }

  private func map(for node: NodeDescription) -> [PeerPlace] {
    // By name, so that equal states give equal maps, and of several at one site the first is taken, as for paths.
    let peers = nodes.all.compactMap { entry -> PeerPlace? in
      let peer = entry.description
      guard !entry.hasLeft, peer.role == .accelerator, let site = peer.site, site != node.site, let tunnel = peer.tunnel else { return nil }
      return PeerPlace(node: peer.node, tunnel: tunnel, prefixes: prefixes(of: site))
    }
    return Array(peers.prefix(ControllerCore.maximumPeers))
  }

  /// What the settings say lies there, and where machines' agents answer there.
  private func prefixes(of site: SiteID) -> [IPPrefix] {
    let named = settings.sites.first { $0.name == site }?.prefixes ?? []
    let agents = settings.machines.flatMap(\.places).filter { $0.site == site }.map(\.agent.address)
    var all = named
    for agent in agents where !all.contains(where: { $0.contains(agent) }) { all.append(IPPrefix(agent)) }
    return all
  }
}
