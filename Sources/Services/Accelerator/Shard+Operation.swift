import Tunnel
import Vocabulary

/// Settings that change while flows live, and the end of a loop's work.
extension Shard {
  private var connectionsPerPeer: Int { max(settings.connectionsPerPeer / settings.loops, 1) }

  func startPool(of peer: AcceleratorSettings.Peer) {
    let pool = TunnelPool(
      peer: peer, connections: connectionsPerPeer, bypass: settings.entrances.bypass, security: security, loop: loop, logger: logger
    ) {
      [unowned self] established, closed in
      self.makeLink(role: .dialler, peer: peer.node, established: established, closed: closed)
    }
    pools[peer.node] = pool
    pool.start()
  }

  /// What is new counts for what begins from now on; flows that live are left alone.
  func apply(_ new: AcceleratorSettings) {
    settings = new
    routes = RouteTable(new.routes)
    for pool in pools.values {
      pool.resize(connectionsPerPeer)
      pool.bypass = new.entrances.bypass
    }
    syncPeers()
    for group in groups.values { group.setLimit(new.rateLimit) }
  }

  /// No flow begins here any more.
  func leave() {
    for pool in pools.values { pool.leave(stopping) }
    for link in accepted.values { link.leave() }
  }

  /// Neither a flow nor a connection at the entrance lives, and none can come.
  var isSpent: Bool { entered == 0 && groups.values.allSatisfy { $0.all.allSatisfy(\.isSpent) } }

  private var stopping: TunnelGoodbye { TunnelGoodbye(.stopping, "\(settings.node) is being stopped") }
}
