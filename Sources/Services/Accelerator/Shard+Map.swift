import Control
import NIOCore
import Tunnel
import Vocabulary

/// A peer of the controller's map.
struct MappedPeer {
  var place: PeerPlace
  /// Set while it is on the map no more.
  var leaving: Scheduled<Void>?
}

/// Peers by the controller's map, beside those of the settings.
extension Shard {
  /// The whole map, as the controller has it now. What it leaves out is kept for a while: a controller that was started again learns of its nodes one by one.
  func follow(_ map: [PeerPlace]) {
    let now = Dictionary(map.filter { $0.node != settings.node }.map { ($0.node, $0) }) { first, _ in first }
    for (node, place) in now {
      mapped[node]?.leaving?.cancel()
      mapped[node] = MappedPeer(place: place)
    }
    for node in mapped.keys where now[node] == nil && mapped[node]?.leaving == nil {
      mapped[node]?.leaving = loop.assumeIsolated().scheduleTask(in: .nanoseconds(settings.mapPatience.nanoseconds)) { [weak self] in
        self?.mapped[node] = nil
        self?.syncPeers()
      }
    }
    syncPeers()
  }

  /// The peers of the settings, and those that only the map knows.
  private var peers: [AcceleratorSettings.Peer] {
    let named = Set(settings.peers.map(\.node))
    return settings.peers
      + mapped.values.map(\.place).filter { !named.contains($0.node) }.sorted { $0.node < $1.node }
      .map { AcceleratorSettings.Peer(node: $0.node, tunnel: $0.tunnel) }
  }

  /// Pools for all peers and no others; flows that live go on.
  func syncPeers() {
    let places = mapped.values.map(\.place).sorted { $0.node < $1.node }
    mapRoutes = RouteTable(places.flatMap { place in place.prefixes.map { AcceleratorSettings.Route(prefix: $0, peer: place.node) } })
    let peers = self.peers
    let wanted = Set(peers)
    for (node, pool) in pools where !wanted.contains(pool.peer) {
      pool.leave(TunnelGoodbye(.stopping, "\(settings.node) does not use \(node) any more"))
      pools[node] = nil
    }
    for peer in peers where pools[peer.node] == nil { startPool(of: peer) }
  }

  /// Whose tunnel leads to this address: by the settings, or else by the map.
  func pool(for address: IPAddress) -> TunnelPool? {
    (routes.peer(for: address) ?? mapRoutes.peer(for: address)).flatMap { pools[$0] }
  }
}
