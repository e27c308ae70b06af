import Carriers
import Certificates
import Control
import Interception
import NIOCore
import SCTP
import Sealing
import Sockets
import Vocabulary

// A session of nodes with certificates (docs/wire/sealing.md).

extension ClientSession {
  /// The first carrier of a session holds the exchange, the later ones need none.
  func security(of id: CarrierID) throws -> Dialled.Security {
    guard let certificates else { return .open }
    if driver == nil {
      let session = SealedSessionID.random()
      exchangeFailure = nil
      return .exchange(certificates.current, agent: machine, session: session) { [weak self] outcome in self?.take(outcome, of: session) }
    }
    guard let sealed else { throw ExchangeError("the session is being opened still") }
    return .sealed(sealed.secret, SealedPreface(session: sealed.id, carrier: UInt32(truncatingIfNeeded: id.value)))
  }

  private func take(_ outcome: ClientExchangeHandler.Outcome, of session: SealedSessionID) {
    switch outcome {
    case .opened(let secret):
      guard session == exchanging else { return }
      sealed = (session, secret)
      driver?.provide(endpointKey: secret.associationKey)
    case .failed(let reason):
      exchangeFailure = reason
      logger.warning("no sealed session with machine \(machine): \(reason)")
    case .known: break
    }
  }

  /// Somebody says that the agent does not know this session. Before it is given up, the agent is asked where nobody can answer in its place.
  func askAgent() {
    guard let certificates, let sealed, !isAsking, !hasEnded else { return }
    isAsking = true
    connect(to: recovery.next) { [weak self] result, request in
      guard let self else { return }
      do {
        let channel = try result.get()
        channel.closeFuture.assumeIsolated().whenComplete { [weak self] _ in self?.isAsking = false }
        let pipeline = channel.pipeline.syncOperations
        if let request { try pipeline.addHandler(ConnectRequestHandler(target: request, limit: InterceptionLimits.answer)) }
        let current = certificates.current
        let gate = try current.secure(pipeline, as: .client, expecting: .agent(self.machine.text))
        let exchange = ClientExchangeHandler(name: current.name, gate: gate, purpose: .ask, session: sealed.id, carrier: nil) {
          [weak self] outcome in
          guard let self, self.sealed?.id == sealed.id, case .known(false) = outcome else { return }
          self.driver?.abort("the agent does not know this session: it was started again")
        }
        try pipeline.addHandler(exchange)
        let bound = NIOLoopBound(channel, eventLoop: self.loop)
        self.loop.scheduleTask(in: ClientSession.moveLimit) { bound.value.close(promise: nil) }
      } catch {
        self.isAsking = false
        self.logger.debug("the agent of machine \(self.machine) could not be asked: \(describe(error))")
      }
    }
  }
}
