import Certificates
import NIOCore
import SCTP
import Sealing
import Sockets
import Vocabulary

extension SessionAcceptor {
  /// What an agent with certificates needs to take sealed sessions.
  package struct Sealed {
    var identity: IdentityKeeper
    /// A passive end with this endpoint pair shared key (RFC 4895), for one session.
    var makeListener: (_ endpointKey: [UInt8]) -> SessionListener

    package init(identity: IdentityKeeper, makeListener: @escaping ([UInt8]) -> SessionListener) {
      self.identity = identity
      self.makeListener = makeListener
    }
  }

  /// What the agent keeps of a sealed session beside its driver.
  struct SealedSession {
    var secret: SessionSecret
    var client: NodeName
    /// Carrier numbers that have proved authentic.
    var carriers = ReplayWindow()
    /// Nil until the association stands.
    var driver: SessionDriver?
  }

  /// The first octets of an accepted connection say what it is.
  func begin(_ opening: CarrierOpening, on id: CarrierID, _ channel: any Channel, _ sealing: Sealed) {
    guard let stranger = strangers[id] else { return channel.close(promise: nil) }
    switch opening {
    case .open: dismiss(id, "neither TLS nor a sealed carrier: the client has no certificates, and this agent wants them")
    case .exchange:
      do {
        let pipeline = channel.pipeline.syncOperations
        let identity = sealing.identity.current
        let gate = try identity.secure(pipeline, as: .server, expecting: .client)
        let exchange = AgentExchangeHandler(gate: gate, carrier: stranger.carrier) { [weak self] request, client in
          self?.decide(on: request, of: client, as: identity.name, carrier: id, sealing) ?? AgentExchangeHandler.Decision(.refused)
        }
        try pipeline.addHandlers([exchange, stranger.carrier])
      } catch {
        dismiss(id, "TLS cannot begin: \(describe(error))")
      }
    case .sealed(let preface): open(preface, on: id, stranger, channel)
    }
  }

  private func decide(
    on request: ExchangeRequest, of client: NodeName, as agent: NodeName, carrier id: CarrierID, _ sealing: Sealed
  ) -> AgentExchangeHandler.Decision {
    guard let stranger = strangers[id] else { return AgentExchangeHandler.Decision(.refused) }
    let known = sealedSessions[request.session]
    switch request.purpose {
    case .ask:
      forget(id)
      return AgentExchangeHandler.Decision(known?.client == client ? .known : .unknown)
    case .open:
      guard known == nil, sealedSessions.count < SessionAcceptor.maximumSessions else {
        logger.warning(
          "session refused: \(known == nil ? "\(SessionAcceptor.maximumSessions) are open" : "its id is taken")",
          metadata: ["remote": "\(stranger.remote)", "client": "\(client)"])
        return AgentExchangeHandler.Decision(.refused)
      }
      let contribution = SessionSecret.randomOctets(SessionSecret.contributionOctets)
      let secret = SessionSecret(
        client: request.contribution, agent: contribution, session: request.session, clientName: client.description,
        agentName: agent.description)
      var session = SealedSession(secret: secret, client: client)
      session.carriers.note(1)
      sealedSessions[request.session] = session
      strangers[id]?.opening = (request.session, sealing.makeListener(secret.associationKey))
      return AgentExchangeHandler.Decision(.opened, contribution: contribution, secret: secret)
    }
  }

  /// A later carrier. It becomes the session's once its first packet has proved authentic; until then it costs the session nothing.
  private func open(_ preface: SealedPreface, on id: CarrierID, _ stranger: Stranger, _ channel: any Channel) {
    let remote = stranger.remote
    guard let session = sealedSessions[preface.session], let driver = session.driver else {
      logger.info("carrier refused: its session is unknown here", metadata: ["remote": "\(remote)", "session": "\(preface.session)"])
      forget(id)
      var notice = channel.allocator.buffer(capacity: 3)
      notice.writeInteger(UInt16(1))
      notice.writeInteger(SealedNotice.unknownSession.rawValue)
      let bound = NIOLoopBound(channel, eventLoop: loop)
      return channel.writeAndFlush(notice).assumeIsolated().whenComplete { _ in bound.value.close(promise: nil) }
    }
    let number = UInt64(preface.carrier)
    guard number >= 2, session.carriers.admits(number) else {
      return dismiss(id, "carrier number \(preface.carrier) of session \(preface.session) has been used")
    }
    let carrier = stranger.carrier
    carrier.seal(with: session.secret.sealer(carrier: preface.carrier, .toClient))
    carrier.expectSealed(by: session.secret.opener(carrier: preface.carrier, .toAgent))
    carrier.events.packet = { [weak self, weak driver] carrier, packet in
      guard let self, let driver, self.sealedSessions[preface.session]?.carriers.admits(number) == true else {
        return carrier.close("its session has ended, or its number has been used meanwhile")
      }
      self.sealedSessions[preface.session]?.carriers.note(number)
      guard let stranger = self.forget(carrier.id) else { return }
      driver.open(carrier, local: stranger.local, remote: stranger.remote)
      driver.receive(packet, on: carrier.id)
    }
    do {
      try channel.pipeline.syncOperations.addHandler(carrier)
    } catch {
      dismiss(id, describe(error))
    }
  }
}
