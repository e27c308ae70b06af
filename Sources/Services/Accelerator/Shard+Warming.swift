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

  /// Orders to itself (`--keep-warm`): the same as the controller's, for the round trip that TCP has measured. Asked when a connection has come up.
  func keepWarm(_ link: TunnelLink) {
    guard settings.keepsWarm, let rate = settings.rateLimit, let peer = link.peer?.node, pools[peer] != nil else { return }
    if let roundTrip = link.tcpState()?.leastRoundTrip {
      // A detour that the first connection has seen is no reason to pad for ever: the shortest counts.
      let shortest = min(roundTrip, warming[peer]?.roundTrip ?? roundTrip)
      warming[peer] = WarmRequest(rate: rate, roundTrip: shortest, hold: TunnelLimits.hold)
    }
    guard renewal == nil else { return }
    // Twice in each hold, so that one may come late.
    let pause = TimeAmount.nanoseconds(TunnelLimits.hold.nanoseconds / 2)
    let bound = NIOLoopBound(self, eventLoop: loop)
    renewal = loop.scheduleRepeatedTask(initialDelay: pause, delay: pause) { _ in
      for (peer, request) in bound.value.warming where bound.value.pools[peer] != nil { bound.value.warm(peer: peer, request) }
    }
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
