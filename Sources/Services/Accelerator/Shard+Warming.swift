import NIOCore
import Tunnel
import Vocabulary

/// Orders to warm the tunnels to a peer.
extension Shard {
  /// The controller's order: both directions of the connections to this peer, one after another.
  func warm(peer: NodeID, _ request: WarmRequest) {
    guard groups[peer] != nil || pools[peer] != nil else {
      logger.warning("cannot warm the tunnel to \(peer): it is neither a --peer of this accelerator nor connected to it")
      return
    }
    warming[peer] = request
    guard let group = groups[peer] else { return }  // begins when the first connection is up
    for link in group.all where link.isWarm || link.isOpeningWindow {
      link.warm(request)
      link.askToWarm(request)
    }
    warmNext(peer)
  }

  /// The peer's order for its receiving direction: this connection, now.
  func warm(_ link: TunnelLink, _ request: WarmRequest) { link.warm(request) }

  func opened(_ link: TunnelLink, _ window: Int, _ isFull: Bool) {
    guard let peer = link.peer?.node else { return }
    let segments = link.tcpState()?.congestionWindowSegments ?? 0
    let text = "tunnel to \(peer) \(isFull ? "warm" : "partly warm"): cwnd \(segments) (\(window >> 10) KiB)"
    logger.info("\(text)")
    report(.event(text))
    warmNext(peer)
  }

  /// Begins with the next connection that is cold, if none is being opened.
  func warmNext(_ peer: NodeID) {
    guard let request = warming[peer], let links = groups[peer]?.all.filter(\.isEstablished) else { return }
    guard !links.contains(where: \.isOpeningWindow), let next = links.first(where: { !$0.isWarm }) else { return }
    next.askToWarm(request)
    next.warm(request)
  }
}
