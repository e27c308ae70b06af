import Authentication
import Certificates
import Compression
import Control
import Flows
import Logging
import NIOCore
import Relay
import Sockets
import Tunnel
import Vocabulary

/// Tunnel connections, dialled and accepted, and the flows that peers open on them.
extension Shard {
  func takeTunnel(_ channel: any Channel) throws {
    guard accepted.count < Shard.maximumAccepted else {
      logger.warning("tunnel connection turned away: \(Shard.maximumAccepted) are open", metadata: ["from": "\(origin(channel))"])
      channel.close(promise: nil)
      return
    }
    let from = origin(channel)
    let gate = try security.secure(channel, as: .acceptor, peer: nil)
    let link = makeLink(
      role: .acceptor, peer: nil, gate: gate,
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

  func origin(_ channel: any Channel) -> String { channel.remoteAddress?.vocabulary.map(\.description) ?? "?" }

  func makeLink(
    role: TunnelConnection.Role, peer: NodeID?, gate: PeerGate? = nil, established: @escaping (TunnelLink) -> Void,
    closed: @escaping (TunnelLink, TunnelClosure) -> Void
  ) -> TunnelLink {
    let hello = TunnelHello(
      node: settings.node, peer: peer ?? NodeID(""), maximumFlows: UInt32(settings.limits.maximumFlows),
      nonce: EndpointKey.randomOctets(TunnelLimits.nonceOctets), store: store?.identity ?? 0)
    let setup = TunnelLink.Setup(
      role: role, hello: hello, prover: security.prover(behind: gate), limits: settings.limits, compresses: settings.compresses,
      weights: settings.weights, store: store, effort: effort, services: services,
      congestion: CongestionPolicy(isPaced: settings.rateLimit != nil, keepsIdleWindows: keepsIdleWindows), logger: logger)
    let events = TunnelLink.Events(
      established: { [weak self] link, hello in
        self?.joined(link, hello.node, role)
        established(link)
      },
      incoming: { [weak self] link, id, target in self?.dial(target, flow: id, of: link) },
      warm: { [weak self] link, request in self?.warm(link, request) },
      have: { [weak self] have in self?.believe(have) },
      opened: { [weak self] link, window, isFull in self?.opened(link, window, isFull) },
      closed: { [weak self] link, closure in
        self?.left(link, closure)
        closed(link, closure)
      })
    return TunnelLink(loop: loop, setup: setup, events: events)
  }

  func joined(_ link: TunnelLink, _ peer: NodeID, _ role: TunnelConnection.Role) {
    let group = groups[peer] ?? PacingGroup(loop: loop, limit: settings.rateLimit, share: shares.share(of: peer))
    if group.isEmpty {
      logger.info(role == .dialler ? "tunnel to \(peer) is up" : "tunnel from \(peer) is up")
      report(.event(role == .dialler ? "tunnel to \(peer) is up" : "tunnel from \(peer) is up"))
    }
    groups[peer] = group
    link.group = group
    group.add(link)
    keepWarm(link)
    warmNext(peer)
  }

  func left(_ link: TunnelLink, _ closure: TunnelClosure) {
    guard let peer = link.peer?.node, let group = groups[peer] else { return }
    group.remove(link)
    ended += link.statistics
    keep(link.statistics, of: peer)
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

  func dial(_ target: FlowTarget, flow id: FlowID, of link: TunnelLink) {
    let flow = link.flow(id)
    if let address = IPAddress(target.host) {
      let isParked = parked.park(Endpoint(address: address, port: target.port)) { [weak self, weak link] in
        // Its opener may have given it up meanwhile.
        guard let self, let link, link.flow(id) === flow, flow != nil else { return }
        self.dial(target, flow: id, of: link)
      }
      if isParked { return }
    }
    guard let flow else { return }  // its opener has given it up
    guard let grant = ledger.admit(flow.terms.tenant) else {
      ledger.account(of: flow.terms.tenant).noteRefused(.tooManyFlows)
      link.hub?.refuse(id, .tooManyFlows)
      return
    }
    dialler.dial(target, from: settings.entrances.keepsSource ? flow.terms.source : nil) { [weak link, logger, ledger] result in
      // The opener may have given up meanwhile, and opened another flow with the same identifier: that one is another object.
      let hub = link?.flow(id) === flow ? link?.hub : nil
      switch result {
      case .success(let channel):
        ledger.giveBack(grant, after: channel)
        guard let hub else { return SocketRelay.abort(channel) }
        grant.account.noteOpened()
        hub.accept(id, with: channel, window: grant.creditWindow, gate: grant.account.gate)
      case .failure(let why):
        logger.debug("flow refused", metadata: ["flow.id": "\(id)", "target": "\(target)", "reason": "\(why)"])
        ledger.giveBack(grant)
        grant.account.noteRefused(why)
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
