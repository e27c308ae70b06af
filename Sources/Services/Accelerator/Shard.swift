import Authentication
import Control
import Flows
import Interception
import Logging
import NIOCore
import NIOPosix
import Relay
import Sockets
import Tunnel
import Vocabulary

/// Everything of an accelerator that lives on one event loop: its entrance connections, its pools, the tunnels that it accepted.
final class Shard {
  /// Tunnel connections that one loop accepts, those that have not proved the key yet included. 16 peers with four connections each.
  static let maximumAccepted = 64
  /// Applications' connections that one loop holds: 4,096 flows of one peer's four tunnel connections, and as many to targets without a peer. With their
  /// far sides that is 12,288 descriptors.
  static let maximumEntered = 8_192

  let loop: any EventLoop
  private let settings: AcceleratorSettings
  private let prover: TunnelProver
  private let routes: RouteTable
  private let dialler: TargetDialler
  private let parked: ParkedFlows
  private let shares: PacingShares
  private let keepsIdleWindows: Bool
  private let report: @Sendable (NodeReport) -> Void
  private let logger: Logger
  private var pools: [NodeID: TunnelPool] = [:]
  private var groups: [NodeID: PacingGroup] = [:]
  private var entered = 0
  private var accepted: [ObjectIdentifier: TunnelLink] = [:]
  /// The figures of the tunnel connections that have ended.
  private var ended = FlowStatistics()
  /// Orders to warm that are at work: one connection of a peer after another, so that each gets the whole rate.
  private var warming: [NodeID: WarmRequest] = [:]

  init(
    loop: any EventLoop, settings: AcceleratorSettings, key: EndpointKey, shares: PacingShares,
    report: @escaping @Sendable (NodeReport) -> Void, logger: Logger
  ) {
    self.loop = loop
    self.settings = settings
    self.shares = shares
    parked = ParkedFlows(loop: loop)
    keepsIdleWindows = TCPSocket.keepsIdleWindows()
    self.report = report
    self.logger = logger
    prover = TunnelProver(
      proof: { key.tunnelProof(transcript: $0) }, verify: { key.verifyTunnelProof($0, transcript: $1) })
    routes = RouteTable(settings.routes)
    dialler = TargetDialler(loop: loop, logger: logger)
  }

  func start() {
    for peer in settings.peers {
      let pool = TunnelPool(
        peer: peer, connections: max(settings.connectionsPerPeer / settings.loops, 1), loop: loop, logger: logger
      ) { [unowned self] established, closed in
        self.makeLink(role: .dialler, peer: peer.node, established: established, closed: closed)
      }
      pools[peer.node] = pool
      pool.start()
    }
  }

  func stop() {
    parked.stop()
    for pool in pools.values { pool.stop() }
    for link in accepted.values { link.close(TunnelGoodbye(.stopping, "\(settings.node) is being stopped")) }
  }

  /// Connections to this peer, dialled and accepted, that may carry flows.
  func establishedCount(to peer: NodeID) -> Int { groups[peer]?.all.count { $0.isEstablished } ?? 0 }

  var flowCount: Int { groups.values.reduce(0) { $0 + $1.all.reduce(0) { $0 + $1.flowCount } } }

  /// What all flows of this loop came to, ended and living.
  var statistics: FlowStatistics {
    var sum = ended
    for group in groups.values {
      for link in group.all { sum += link.statistics }
    }
    return sum
  }

  /// For tests: ends every tunnel connection as a network that forgets them does.
  func cutTunnels() {
    for group in groups.values {
      for link in group.all { link.abort() }
    }
  }
}

// MARK: The entrance

extension Shard {
  func takeEntrance(_ channel: any Channel) throws {
    guard entered < Shard.maximumEntered else {
      logger.debug("connection turned away: \(Shard.maximumEntered) are open", metadata: ["from": "\(origin(channel))"])
      channel.close(promise: nil)
      return
    }
    entered += 1
    channel.closeFuture.assumeIsolated().whenComplete { [weak self] _ in self?.entered -= 1 }
    let handler = HTTPConnectHandler(limit: .nanoseconds(settings.entranceLimit.nanoseconds), logger: logger) { [weak self] in
      if let self { self.route($0, for: $1) } else { $1.refuse(.lost) }
    }
    try channel.pipeline.syncOperations.addHandler(handler)
  }

  /// A peer whose routes cover the target's address, or the target itself.
  private func route(_ target: FlowTarget, for client: any WaitingClient) {
    dialler.resolve(target.host) { [weak self] resolved in
      guard let self else { return client.refuse(.lost) }
      switch resolved {
      case .failure(let why): client.refuse(why)
      case .success(let address):
        // The peer gets the address that the route was chosen by: a name may mean something else at its site.
        let target = FlowTarget(host: "\(address)", port: target.port)
        if let peer = self.routes.peer(for: address), let pool = self.pools[peer] {
          pool.open(target, for: client)
        } else {
          self.openDirectly(target, for: client)
        }
      }
    }
  }

  private func openDirectly(_ target: FlowTarget, for client: any WaitingClient) {
    dialler.dial(target) { [logger] result in
      switch result {
      case .failure(let why): client.refuse(why)
      case .success(let far):
        do {
          // The relay first: what came behind CONNECT goes through it. Nothing can be read from `far` before this turn of the loop is over,
          // so the answer is still the first that the client sees.
          try SplitRelay.join(client.channel, far)
          client.accept()
        } catch {  // the client has gone meanwhile
          logger.debug("split flow not joined", metadata: ["target": "\(target)", "error": "\(error)"])
          SocketRelay.abort(far)
          SocketRelay.abort(client.channel)
        }
      }
    }
  }
}

// MARK: Tunnels

extension Shard {
  func takeTunnel(_ channel: any Channel) throws {
    guard accepted.count < Shard.maximumAccepted else {
      logger.warning("tunnel connection turned away: \(Shard.maximumAccepted) are open", metadata: ["from": "\(origin(channel))"])
      channel.close(promise: nil)
      return
    }
    let from = origin(channel)
    let link = makeLink(
      role: .acceptor, peer: nil,
      established: { _ in },
      closed: { [weak self] link, closure in
        guard let self else { return }
        self.accepted[ObjectIdentifier(link)] = nil
        if link.peer == nil { self.logger.warning("tunnel connection from \(from) turned away: \(closure)") }
      })
    accepted[ObjectIdentifier(link)] = link
    do {
      try channel.pipeline.syncOperations.addHandler(link)
    } catch {
      accepted[ObjectIdentifier(link)] = nil
      throw error
    }
  }

  private func origin(_ channel: any Channel) -> String { channel.remoteAddress?.vocabulary.map(\.description) ?? "?" }

  private func makeLink(
    role: TunnelConnection.Role, peer: NodeID?, established: @escaping (TunnelLink) -> Void,
    closed: @escaping (TunnelLink, TunnelClosure) -> Void
  ) -> TunnelLink {
    let hello = TunnelHello(
      node: settings.node, peer: peer ?? NodeID(""), maximumFlows: UInt32(settings.limits.maximumFlows),
      nonce: EndpointKey.randomOctets(TunnelLimits.nonceOctets))
    let setup = TunnelLink.Setup(
      role: role, hello: hello, prover: prover, limits: settings.limits, compresses: settings.compresses,
      congestion: CongestionPolicy(isPaced: settings.rateLimit != nil, keepsIdleWindows: keepsIdleWindows), logger: logger)
    let events = TunnelLink.Events(
      established: { [weak self] link, hello in
        self?.joined(link, hello.node, role)
        established(link)
      },
      incoming: { [weak self] link, id, target in self?.dial(target, flow: id, of: link) },
      warm: { [weak self] link, request in self?.warm(link, request) },
      opened: { [weak self] link, window, isFull in self?.opened(link, window, isFull) },
      closed: { [weak self] link, closure in
        self?.left(link, closure)
        closed(link, closure)
      })
    return TunnelLink(loop: loop, setup: setup, events: events)
  }

  private func joined(_ link: TunnelLink, _ peer: NodeID, _ role: TunnelConnection.Role) {
    let group = groups[peer] ?? PacingGroup(loop: loop, limit: settings.rateLimit, share: shares.share(of: peer))
    if group.isEmpty {
      logger.info(role == .dialler ? "tunnel to \(peer) is up" : "tunnel from \(peer) is up")
      report(.event(role == .dialler ? "tunnel to \(peer) is up" : "tunnel from \(peer) is up"))
    }
    groups[peer] = group
    link.group = group
    group.add(link)
    warmNext(peer)
  }

  private func left(_ link: TunnelLink, _ closure: TunnelClosure) {
    guard let peer = link.peer?.node, let group = groups[peer] else { return }
    group.remove(link)
    ended += link.statistics
    let figures = link.statistics
    logger.debug(
      "tunnel connection closed",
      metadata: [
        "peer": "\(peer)", "reason": "\(closure)", "sent": "\(figures.plainSent)", "sent.wire": "\(figures.wireSent)",
        "received": "\(figures.plainReceived)", "received.wire": "\(figures.wireReceived)",
      ])
    guard group.isEmpty else { return }
    groups[peer] = nil
    warming[peer] = nil
    logger.notice("tunnel with \(peer) is down: \(closure)")
    report(.event("tunnel with \(peer) is down: \(closure)"))
  }

  private func dial(_ target: FlowTarget, flow id: FlowID, of link: TunnelLink) {
    let codec = link.codec(of: id)
    if let address = IPAddress(target.host) {
      let isParked = parked.park(Endpoint(address: address, port: target.port)) { [weak self, weak link] in
        // Its opener may have given it up meanwhile.
        guard let self, let link, link.codec(of: id) === codec, codec != nil else { return }
        self.dial(target, flow: id, of: link)
      }
      if isParked { return }
    }
    dialler.dial(target) { [weak link, logger] result in
      // The opener may have given up meanwhile, and opened another flow with the same identifier: that one has another codec.
      let hub = link?.codec(of: id) === codec ? link?.hub : nil
      switch result {
      case .success(let channel):
        if let hub { hub.accept(id, with: channel) } else { SocketRelay.abort(channel) }
      case .failure(let why):
        logger.debug("flow refused", metadata: ["flow.id": "\(id)", "target": "\(target)", "reason": "\(why)"])
        hub?.refuse(id, why)
      }
    }
  }
}

// MARK: Machines on their way

extension Shard {
  func expect(_ agent: Endpoint, for hold: TimeAmount) { parked.expect(agent, for: hold) }

  func release(_ agent: Endpoint, hasArrived: Bool) {
    let count = parked.release(agent)
    guard count > 0 else { return }
    logger.info("\(hasArrived ? "connecting" : "letting go of") \(count == 1 ? "a parked flow" : "\(count) parked flows") to \(agent)")
  }
}

// MARK: Warming

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
  private func warm(_ link: TunnelLink, _ request: WarmRequest) { link.warm(request) }

  private func opened(_ link: TunnelLink, _ window: Int, _ isFull: Bool) {
    guard let peer = link.peer?.node else { return }
    let segments = link.tcpState()?.congestionWindowSegments ?? 0
    let text = "tunnel to \(peer) \(isFull ? "warm" : "partly warm"): cwnd \(segments) (\(window >> 10) KiB)"
    logger.info("\(text)")
    report(.event(text))
    warmNext(peer)
  }

  /// Begins with the next connection that is cold, if none is being opened.
  private func warmNext(_ peer: NodeID) {
    guard let request = warming[peer], let links = groups[peer]?.all.filter(\.isEstablished) else { return }
    guard !links.contains(where: \.isOpeningWindow), let next = links.first(where: { !$0.isWarm }) else { return }
    next.askToWarm(request)
    next.warm(request)
  }
}
