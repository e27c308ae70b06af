import Flows
import Interception
import Logging
import NIOCore
import Relay
import Sockets
import Vocabulary

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
    }
  }

  private func handle(_ handshake: some ProxyHandshake, on channel: any Channel) throws {
    let handler = ProxyHandshakeHandler(handshake, limit: .nanoseconds(settings.entranceLimit.nanoseconds), logger: logger) { [weak self] in
      if let self { self.route($0, for: $1) } else { $1.refuse(.lost) }
    }
    try channel.pipeline.syncOperations.addHandler(handler)
  }

  /// A peer whose routes cover the target's address, or the target itself.
  func route(_ target: FlowTarget, for client: any WaitingClient) {
    dialler.resolve(target.host) { [weak self] resolved in
      guard let self else { return client.refuse(.lost) }
      switch resolved {
      case .failure(let why): client.refuse(why)
      case .success(let address):
        // The peer gets the address that the route was chosen by: a name may mean something else at its site.
        let target = FlowTarget(host: "\(address)", port: target.port)
        if let peer = self.routes.peer(for: address), let pool = self.pools[peer] {
          pool.open(FlowRequest(target: target), for: client)
        } else {
          self.openDirectly(target, for: client)
        }
      }
    }
  }

  func openDirectly(_ target: FlowTarget, for client: any WaitingClient) {
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
