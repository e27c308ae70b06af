import Flows
import Interception
import Logging
import NIOCore
import Relay
import Sockets
import Vocabulary

extension Shard {
  /// For so long this machine's addresses are believed: one look for all the connections of a second.
  static let addressesAge = TimeAmount.seconds(1)
}

/// Connections of applications: who takes them, and where they go.
extension Shard {
  func take(_ channel: any Channel, by entrance: Entrance) throws {
    guard entered < Shard.maximumEntered else {
      logger.debug("connection turned away: \(Shard.maximumEntered) are open", metadata: ["from": "\(origin(channel))"])
      SocketRelay.abort(channel)
      return
    }
    entered += 1
    channel.closeFuture.assumeIsolated().whenComplete { [weak self] _ in self?.entered -= 1 }
    switch entrance {
    case .connect: try handle(HTTPConnectHandshake(), on: channel)
    case .socks: try handle(SOCKS5Handshake(), on: channel)
    case .forward(let target): try handle(KnownTarget(target), on: channel)
    case .transparent:
      guard let dialled = channel.localAddress?.vocabulary, !isOwn(dialled.address) else {
        // Dialled again it would come back here, for ever.
        logger.debug("not an intercepted connection, so where should it go?", metadata: ["from": "\(origin(channel))"])
        SocketRelay.abort(channel)
        return
      }
      let source = settings.entrances.keepsSource ? channel.remoteAddress?.vocabulary : nil
      try handle(KnownTarget(FlowTarget(host: "\(dialled.address)", port: dialled.port)), on: channel, from: source)
    }
  }

  /// An intercepted connection has the address of its target; one of this machine's own was dialled to the entrance itself.
  private func isOwn(_ address: IPAddress) -> Bool {
    if address.isLoopback { return true }
    let now = NIODeadline.now()
    if let known = ownAddresses, now - known.at < Shard.addressesAge { return known.addresses.contains(address) }
    let addresses = AddressWatch.present()
    ownAddresses = (now, addresses)
    return addresses.contains(address)
  }

  /// - Parameter source: the application's own address, where its target shall see it.
  private func handle(_ handshake: some ProxyHandshake, on channel: any Channel, from source: Endpoint? = nil) throws {
    let handler = ProxyHandshakeHandler(handshake, limit: .nanoseconds(settings.entranceLimit.nanoseconds), logger: logger) { [weak self] in
      guard let self else { return $1.refuse(.lost) }
      if let (client, grant) = self.admit($1) { self.route(self.request(for: $0, from: source, of: client, grant), for: client) }
    }
    try channel.pipeline.syncOperations.addHandler(handler)
  }

  /// A peer whose routes cover the target's address, or the target itself.
  func route(_ request: FlowRequest, for client: any WaitingClient) {
    dialler.resolve(request.target.host) { [weak self] resolved in
      guard let self else { return client.refuse(.lost) }
      switch resolved {
      case .failure(let why): client.refuse(why)
      case .success(let address):
        // The peer gets the address that the route was chosen by: a name may mean something else at its site.
        var request = request
        request.target.host = "\(address)"
        if let pool = self.pool(for: address) {
          request.priority = self.priority(of: Endpoint(address: address, port: request.target.port), request, client)
          pool.open(request, for: client) { [weak self] in self?.pass(request, for: client, $0) ?? client.refuse(.lost) }
        } else {
          self.pass(request, for: client, .noRoute)
        }
      }
    }
  }

  /// No tunnel takes it. A target that no peer covers is always dialled from here.
  private func pass(_ request: FlowRequest, for client: any WaitingClient, _ reason: PassReason) {
    let isRefused = reason != .noRoute && settings.entrances.bypass == .refuse
    passed.note(reason, isRefused: isRefused)
    logger.debug("flow goes by no tunnel", metadata: ["target": "\(request.target)", "reason": "\(reason.rawValue)"])
    if isRefused { client.refuse(reason.refusal) } else { openDirectly(request, for: client, reason) }
  }

  private func openDirectly(_ request: FlowRequest, for client: any WaitingClient, _ reason: PassReason) {
    // A machine that is on its way to this site is not dialled before it is there.
    if let address = IPAddress(request.target.host),
      parked.park(
        Endpoint(address: address, port: request.target.port),
        connect: { [weak self] in
          guard let self, client.channel.isActive else { return client.refuse(.lost) }
          self.openDirectly(request, for: client, reason)
        })
    {
      return
    }
    let control = settings.entrances.congestion.control
    dialler.dial(request.target, from: request.source) { [weak self, logger] result in
      switch result {
      case .failure(let why): client.refuse(why)
      case .success(let far):
        do {
          // The relay first: what came behind CONNECT goes through it. Nothing can be read from `far` before this turn of the loop is over,
          // so the answer is still the first that the client sees.
          let relays = try SplitRelay.join(client.channel, far)
          self?.noteDirect(request, reason, client.channel, relays)
          if let control { for leg in [client.channel, far] { TCPSocket.setCongestionControl(leg, control) } }
          client.accept()
        } catch {  // the client has gone meanwhile
          logger.debug("split flow not joined", metadata: ["target": "\(request.target)", "error": "\(error)"])
          SocketRelay.abort(far)
          SocketRelay.abort(client.channel)
        }
      }
    }
  }
}
