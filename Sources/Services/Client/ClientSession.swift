import Authentication
import Carriers
import Certificates
import Control
import Flows
import Interception
import Logging
import NIOCore
import NIOPosix
import Relay
import SCTP
import Sealing
import Sockets
import Vocabulary

/// One session of a client with one machine, on one event loop: its driver, and the carriers that it dials.
final class ClientSession {
  /// Until a TCP connection stands. A SYN is sent again after 1 s (RFC 6298): two losses at 500 ms fit.
  static let dialLimit = TimeAmount.seconds(4)
  /// From the first flight on a new carrier to the agent's answer; through accelerators it includes the far side's dial.
  static let moveLimit = TimeAmount.seconds(5)
  /// How long FREEZE keeps the client from looking for the machine by itself: a pause that is longer has gone wrong.
  /// QEMU stops a guest for 300 ms unless told otherwise; 5 s are a pause that somebody should look at, and looking for the machine does it no harm.
  static let freezeLimit = TimeAmount.seconds(5)
  /// How long a first flight may be parked: migrations of large machines over thin lines take minutes. After it GO finds the way without.
  static let parkLimit = TimeAmount.minutes(10)
  /// Every so many failures in a row the controller is told that the session is stuck.
  static let failuresPerReport = 10

  let machine: MachineID
  let loop: any EventLoop
  /// Tells the controller.
  var report: (NodeReport) -> Void = { _ in }
  /// Of a session that is not sealed.
  private let key: EndpointKey?
  /// Nil: the session is not sealed.
  private let identity: IdentityKeeper?
  /// What the session of `driver` is sealed with; nil until the exchange is over.
  private var sealed: (id: SealedSessionID, secret: SessionSecret)?
  /// Why the agent or this client broke the exchange off.
  private var exchangeFailure: String?
  private var isAsking = false
  private let carrierWindow: Int?
  private let limits: FlowLimits
  let logger: Logger
  private var random = SystemRandomNumberGenerator()
  var driver: SessionDriver?
  var recovery: Recovery
  private var lastCarrier: UInt64 = 0
  private var epoch: UInt64 = 0
  var attempt: Attempt?
  var activeCarrier: CarrierID?
  private var isFrozen = false
  private var thaw: Scheduled<Void>?
  private var opening: EventLoopPromise<Void>?
  /// Closed for good: stopped, or never opened.
  var hasEnded = false
  /// The session has ended, and a new one is being opened in its place.
  private var isReopening = false
  private var isEstablished = false

  /// One try to reach the agent over a new carrier.
  struct Attempt {
    var number: UInt64
    var place: Recovery.Place
    /// The GO it serves, and when that was taken; nil for a recovery of our own.
    var go: (epoch: UInt64, taken: NIODeadline)?
    var carrier: CarrierID?
    var timer: Scheduled<Void>?
  }
  /// A first flight that waits, beside the machine's future place, for the machine.
  struct Parked {
    var number: UInt64
    var place: Recovery.Place
    /// Nil while it is being dialled.
    var carrier: Carrier?
  }
  var parked: Parked?
  /// The parked flight has moved the session before GO came: where to, and when.
  var earlyMove: (place: Recovery.Place, at: NIODeadline)?
  var attempts: UInt64 = 0
  var pendingGo: (epoch: UInt64, taken: NIODeadline)?

  init(
    machine: MachineID, agent: Endpoint, key: EndpointKey?, identity: IdentityKeeper?, carrierWindow: Int?, limits: FlowLimits,
    loop: any EventLoop, logger: Logger
  ) {
    self.machine = machine
    self.key = key
    self.identity = identity
    self.carrierWindow = carrierWindow
    self.limits = limits
    self.loop = loop
    self.logger = logger
    recovery = Recovery(destination: Recovery.Place(agent: agent, path: .direct))
  }

  // MARK: Opening

  /// Dials the agent and opens the association; succeeds once it is established.
  func open() -> EventLoopFuture<Void> {
    let promise = loop.makePromise(of: Void.self)
    opening = promise
    let agent = recovery.destination.agent
    dial(recovery.destination) { result in
      switch result {
      case .success(let carrier): self.begin(on: carrier)
      case .failure(let error): self.fail(ClientError.agentUnreachable(self.machine, agent, reason: describe(error)))
      }
    }
    return promise.futureResult
  }

  var isOpen: Bool { isEstablished }

  /// Whether this is one of the machine's addresses, as far as they are known.
  func isAt(_ address: IPAddress) -> Bool { recovery.knows(address) || driver?.association.peerAddresses.contains(address) == true }

  /// The agent was started again, or has given the session up: its flows are gone, and the next ones get a new session.
  private func reopen() {
    guard !hasEnded else { return }
    isReopening = true
    driver = nil
    sealed = nil
    activeCarrier = nil
    parked = nil
    attempts += 1
    let number = attempts
    let delay = recovery.delay(using: &random)
    let bound = NIOLoopBound(self, eventLoop: loop)
    let timer = loop.scheduleTask(in: .nanoseconds(delay.nanoseconds)) { bound.value.dialAgain(number) }
    attempt = Attempt(number: number, place: recovery.next, timer: timer)
  }

  private func dialAgain(_ number: UInt64) {
    guard let attempt, attempt.number == number, !hasEnded else { return }
    dial(attempt.place) { [weak self] result in
      guard let self, self.attempt?.number == number, !self.hasEnded else {
        if case .success(let dialled) = result { dialled.carrier.close("a newer try has taken its place") }
        return
      }
      self.attempt = nil
      switch result {
      case .success(let dialled): self.begin(on: dialled)
      case .failure(let error):
        self.logger.debug("no new session with machine \(self.machine) yet: \(describe(error))")
        self.recovery.failed()
        self.reopen()
      }
    }
  }

  private func begin(on dialled: Dialled) {
    // A sealed session's key comes out of the exchange.
    var configuration = AssociationConfiguration(endpointKey: identity == nil ? key?.associationKey ?? [] : [])
    configuration.scheduler = .fairCapacity
    configuration.localAddresses = [dialled.local]
    let association = Association(
      connecting: configuration, authenticator: CryptoAuthenticator(), random: SystemRandomNumberGenerator(), on: dialled.carrier.id,
      local: dialled.local, remote: dialled.remote, at: SessionDriver.now())
    let driver = SessionDriver(association: association, loop: loop, role: .opener, limits: limits, logger: logger) { _, _ in }
    driver.onEvent = { [unowned self] in self.note($0) }
    self.driver = driver
    activeCarrier = dialled.carrier.id
    driver.adopt(dialled.carrier, local: dialled.local)
  }

  private func fail(_ error: ClientError) {
    hasEnded = true
    opening?.fail(error)
    opening = nil
  }

  func close() {
    hasEnded = true
    attempt?.timer?.cancel()
    thaw?.cancel()
    parked?.carrier?.close("the client has been stopped")
    driver?.abort("the client has been stopped")
  }

  // MARK: Flows

  /// Opens a flow to a port of the machine.
  func open(_ target: FlowTarget, for client: any WaitingClient) {
    guard let driver, !hasEnded else { return client.refuse(.lost) }
    do throws(FlowRefusal) {
      let hub = driver.hub
      let id = try hub.open(target) { refusal in
        if let refusal { client.refuse(refusal) } else { client.accept() }
      }
      hub.join(client.channel, to: id)
      client.startRelaying()
    } catch {
      client.refuse(error)
    }
  }

  /// Opens a flow for a connection that came by a static forward: there is no protocol to refuse in, so a refusal is a RST.
  func open(_ target: FlowTarget, for channel: any Channel) {
    guard let driver, !hasEnded else { return SocketRelay.abort(channel) }
    let logger = self.logger
    do throws(FlowRefusal) {
      let id = try driver.hub.open(target) { refusal in
        guard let refusal else { return }
        logger.info("flow to \(target) refused: \(refusal)")
        SocketRelay.abort(channel)
      }
      driver.hub.join(channel, to: id)
    } catch {
      logger.info("flow to \(target) refused: \(error)")
      SocketRelay.abort(channel)
    }
  }
}

// MARK: - Orders

extension ClientSession {
  func follow(_ order: NodeOrder) {
    switch order {
    case .prepare(_, _, let agent, let path):
      logger.info("machine \(machine) will answer at \(agent)", metadata: ["path": "\(path)"])
      prepare(Recovery.Place(agent: agent, path: path))
    case .freeze: freeze()
    case .go(_, let token): take(token)
    case .rollBack(_, _, let agent):
      recovery.withdraw(agent.address)
      dropParked("the machine stays where it was")
      unfreeze()
      if activeCarrier == nil { tryAgain() }
    case .fence, .warm, .probe, .expect, .arrived, .withdrawn: break
    }
  }

  private func freeze() {
    guard !isFrozen else { return }
    isFrozen = true
    driver?.suspendTimeouts()
    let bound = NIOLoopBound(self, eventLoop: loop)
    thaw = loop.scheduleTask(in: ClientSession.freezeLimit) {
      bound.value.logger.warning("no word of machine \(bound.value.machine) since it was frozen: looking for it")
      bound.value.unfreeze()
    }
  }

  private func unfreeze() {
    guard isFrozen else { return }
    isFrozen = false
    thaw?.cancel()
    thaw = nil
    driver?.resumeTimeouts()
  }

  /// GO. A token that is forged, late or for an epoch that has been is refused, and the log says why.
  private func take(_ token: GoToken) {
    let reason: String? =
      if let flaw = flaw(inSignatureOf: token) {
        flaw
      } else if token.machine != machine {
        "it is for machine \(token.machine)"
      } else if token.expires < Clock.secondsSince1970() {
        "it has expired"
      } else {
        nil
      }
    if let reason {
      logger.warning("GO refused: \(reason)", metadata: ["epoch": "\(token.epoch)"])
      return report(.stuck(machine: machine, epoch: token.epoch, reason: "GO refused: \(reason)"))
    }
    guard token.epoch > epoch else { return }  // it comes several ways and several times
    epoch = token.epoch
    let place = Recovery.Place(agent: token.agent, path: token.path)
    if activeCarrier != nil, attempt == nil, earlyMove == nil, place == recovery.destination {  // where it is already
      unfreeze()
      return report(.moved(machine: machine, epoch: epoch, goToConfirmedMilliseconds: 0))
    }
    logger.info("GO: machine \(machine) is at \(token.agent)", metadata: ["epoch": "\(epoch)", "path": "\(token.path)"])
    unfreeze()
    recovery.head(for: place)
    pendingGo = (epoch, .now())
    if isReopening { return }  // the new session is opened there, or moved there when it stands
    give(upOn: "a new GO came")
    if !takeParked(at: recovery.destination) { tryNow() }
  }

  /// With certificates only a controller's signature counts; the key that all nodes share would let any of them move a session.
  private func flaw(inSignatureOf token: GoToken) -> String? {
    guard let identity else { return key?.verify(token) == true ? nil : "its MAC is wrong" }
    do throws(CertificateError) {
      try identity.current.verify(token)
      return nil
    } catch {
      return "\(error)"
    }
  }

  /// A GO that came while there was no session.
  private func serveGo() {
    guard pendingGo != nil else { return }
    tryNow()
  }
}

// MARK: - Carriers

extension ClientSession {
  private func note(_ event: SessionEvent) {
    switch event {
    case .established:
      isEstablished = true
      if isReopening {
        isReopening = false
        recovery.succeeded(at: recovery.next)
        logger.notice("a new session with machine \(machine) is open")
        report(.event("a new session with machine \(machine) is open"))
        serveGo()
      }
      opening?.succeed(())
      opening = nil
    case .moved(let carrier): confirmMove(to: carrier)
    case .peerAnnounced(let address): recovery.announce(address)
    case .peerWithdrew(let address): recovery.withdraw(address)
    case .carrierClosed(let carrier, let reason): lost(carrier, reason)
    case .carrierSilent(let carrier):
      guard carrier == activeCarrier, attempt == nil, !isFrozen else { return }
      logger.info("the carrier to machine \(machine) is silent: looking for it")
      tryNow()
    case .ended(let reason): end(reason)
    case .agentForgot: askAgent()
    case .announced, .withdrawn, .announcementRefused, .roundTrip: break
    }
  }

  private func lost(_ carrier: CarrierID, _ reason: String) {
    if opening != nil {
      if let exchangeFailure { return fail(ClientError.sessionRefused(machine, recovery.destination.agent, reason: exchangeFailure)) }
      return fail(ClientError.agentUnreachable(machine, recovery.destination.agent, reason: reason))
    }
    if carrier == activeCarrier { activeCarrier = nil }
    guard !hasEnded, !isReopening else { return }  // the association's own end follows
    if carrier == parked?.carrier?.id { parked = nil }
    if carrier == attempt?.carrier {
      give(upOn: reason)
      recovery.failed()
      tryAgain()
    } else if activeCarrier == nil, attempt == nil, !isFrozen {
      logger.info("the carrier to machine \(machine) was lost: \(reason)")
      tryNow()
    }
  }

  private func end(_ reason: String?) {
    guard !hasEnded else { return }  // by `close`, or by what kept it from opening
    isEstablished = false
    attempt?.timer?.cancel()
    attempt = nil
    if opening != nil {
      hasEnded = true
      fail(ClientError.sessionRefused(machine, recovery.destination.agent, reason: reason ?? "it was shut down"))
    } else {
      if !isReopening {
        logger.error("session with machine \(machine) ended: \(reason ?? "shut down by its agent"); opening a new one")
        report(.stuck(machine: machine, epoch: epoch, reason: "session ended: \(reason ?? "shut down by its agent")"))
      }
      recovery.failed()
      reopen()
    }
  }

  private func tryAgain() {
    guard !hasEnded, !isFrozen, driver != nil else { return }
    if recovery.failures > 0, recovery.failures % ClientSession.failuresPerReport == 0 {
      report(.stuck(machine: machine, epoch: epoch, reason: "\(recovery.failures) tries failed, the last at \(recovery.next.agent)"))
    }
    let delay = recovery.delay(using: &random)
    attempts += 1
    let number = attempts
    attempt?.timer?.cancel()
    let bound = NIOLoopBound(self, eventLoop: loop)
    let timer = loop.scheduleTask(in: .nanoseconds(delay.nanoseconds)) { bound.value.start(number) }
    attempt = Attempt(number: number, place: recovery.next, go: pendingGo, timer: timer)
  }

  private func tryNow() {
    guard !hasEnded, driver != nil else { return }
    attempt?.timer?.cancel()
    attempts += 1
    attempt = Attempt(number: attempts, place: recovery.next, go: pendingGo)
    start(attempts)
  }

  private func start(_ number: UInt64) {
    guard let attempt, attempt.number == number else { return }
    dial(attempt.place) { [weak self] result in
      guard let self else { return }
      guard self.attempt?.number == number, !self.hasEnded else {
        if case .success(let dialled) = result { dialled.carrier.close("a newer try has taken its place") }
        return
      }
      switch result {
      case .success(let dialled): self.move(to: dialled)
      case .failure(let error):
        self.logger.debug("no carrier to \(attempt.place.agent): \(describe(error))")
        self.recovery.failed()
        self.tryAgain()
      }
    }
  }

  private func move(to dialled: Dialled) {
    guard let driver, let place = attempt?.place else { return }
    let id = dialled.carrier.id
    attempt?.carrier = id
    limitMove(of: dialled.carrier)
    driver.open(dialled.carrier, local: dialled.local, remote: dialled.remote)
    driver.move(to: id, localAddress: dialled.local, peerAddress: place.agent.address)
  }

  /// The agent has so long to answer the first flight of this attempt.
  func limitMove(of carrier: Carrier) {
    attempt?.timer?.cancel()
    let bound = NIOLoopBound((session: self, carrier: carrier), eventLoop: loop)
    let number = attempt?.number
    attempt?.timer = loop.scheduleTask(in: ClientSession.moveLimit) {
      guard bound.value.session.attempt?.number == number else { return }
      bound.value.carrier.close("no answer from the agent in \(ClientSession.moveLimit.nanoseconds / 1_000_000_000) s")
    }
  }

  private func confirmMove(to carrier: CarrierID) {
    activeCarrier = carrier
    if let parked, parked.carrier?.id == carrier {
      self.parked = nil
      unfreeze()
      if attempt?.carrier != carrier { return noteEarlyMove(to: parked.place) }
    }
    guard let attempt, attempt.carrier == carrier else { return }
    attempt.timer?.cancel()
    recovery.succeeded(at: attempt.place)
    if let go = attempt.go {
      let took = milliseconds(from: go.taken, to: .now())
      logger.info("session with machine \(machine) has moved", metadata: ["epoch": "\(go.epoch)", "milliseconds": "\(took)"])
      report(.moved(machine: machine, epoch: go.epoch, goToConfirmedMilliseconds: took))
      pendingGo = nil
    } else {
      logger.info("session with machine \(machine) recovered at \(attempt.place.agent)")
      report(.event("session with machine \(machine) recovered at \(attempt.place.agent)"))
    }
    self.attempt = nil
  }

  func give(upOn reason: String) {
    attempt?.timer?.cancel()
    attempt = nil
    logger.debug("a try to reach machine \(machine) was given up: \(reason)")
  }

  func dial(
    _ place: Recovery.Place, answerLimit: TimeAmount = InterceptionLimits.answer, then: @escaping (Result<Dialled, any Error>) -> Void
  ) {
    lastCarrier += 1
    let id = CarrierID(lastCarrier)
    connect(to: place) { channel, request in
      then(
        Result { try Dialled(channel.get(), id: id, request: request, answerLimit: answerLimit, security: self.security(of: id)) })
    }
  }

  /// A TCP connection towards the agent there, and what to ask the accelerator for that it leads to.
  private func connect(to place: Recovery.Place, then: @escaping (Result<any Channel, any Error>, FlowTarget?) -> Void) {
    var bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(ClientSession.dialLimit)
      .channelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 128 << 10))
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .channelOption(CarrierOptions.notSentLowWater, value: SocketOptionValue(Carrier.notSentLowWater))
    if let carrierWindow {
      bootstrap =
        bootstrap
        .channelOption(.socketOption(.so_rcvbuf), value: SocketOptionValue(carrierWindow))
        .channelOption(CarrierOptions.windowClamp, value: SocketOptionValue(carrierWindow))
    }
    let address: Endpoint
    let request: FlowTarget?
    switch place.path {
    case .direct:
      address = place.agent
      request = nil
    case .accelerated(let entrance, _):
      address = entrance
      request = FlowTarget(host: place.agent.address.description, port: place.agent.port)
    }
    do {
      let connecting = try bootstrap.connect(to: SocketAddress(address))
      connecting.assumeIsolated().whenComplete { then($0, request) }
    } catch {
      then(.failure(error), request)
    }
  }
}

// MARK: - Sealing

extension ClientSession {
  /// The first carrier of a session holds the exchange, the later ones need none.
  private func security(of id: CarrierID) throws -> Dialled.Security {
    guard let identity else { return .open }
    if driver == nil {
      let session = SealedSessionID.random()
      exchangeFailure = nil
      return .exchange(identity.current, agent: machine, session: session) { [weak self] outcome in self?.take(outcome, of: session) }
    }
    guard let sealed else { throw ExchangeError("the session is being opened still") }
    return .sealed(sealed.secret, SealedPreface(session: sealed.id, carrier: UInt32(truncatingIfNeeded: id.value)))
  }

  private func take(_ outcome: ClientExchangeHandler.Outcome, of session: SealedSessionID) {
    switch outcome {
    case .opened(let secret):
      sealed = (session, secret)
      driver?.provide(endpointKey: secret.associationKey)
    case .failed(let reason):
      exchangeFailure = reason
      logger.warning("no sealed session with machine \(machine): \(reason)")
    case .known: break
    }
  }

  /// Somebody says that the agent does not know this session. Before it is given up, the agent is asked where nobody can answer in its place.
  private func askAgent() {
    guard let identity, let sealed, !isAsking, !hasEnded else { return }
    isAsking = true
    connect(to: recovery.next) { [weak self] result, request in
      guard let self else { return }
      do {
        let channel = try result.get()
        channel.closeFuture.assumeIsolated().whenComplete { [weak self] _ in self?.isAsking = false }
        let pipeline = channel.pipeline.syncOperations
        if let request { try pipeline.addHandler(ConnectRequestHandler(target: request, limit: InterceptionLimits.answer)) }
        let current = identity.current
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

func milliseconds(from: NIODeadline, to: NIODeadline) -> Double { Double((to - from).nanoseconds) / 1e6 }

/// A connection that stands, with its carrier in place.
struct Dialled {
  var carrier: Carrier
  var local: IPAddress
  var remote: IPAddress

  /// What guards a new carrier.
  enum Security {
    case open
    case exchange(NodeIdentity, agent: MachineID, session: SealedSessionID, onOutcome: (ClientExchangeHandler.Outcome) -> Void)
    case sealed(SessionSecret, SealedPreface)
  }

  /// Makes a carrier of a connected channel. Behind a CONNECT request the first flight need not wait for the answer.
  init(_ channel: any Channel, id: CarrierID, request: FlowTarget?, answerLimit: TimeAmount, security: Security) throws {
    guard let local = channel.localAddress?.vocabulary, let remote = channel.remoteAddress?.vocabulary else {
      throw ChannelError.alreadyClosed
    }
    carrier = Carrier(
      id: id, events: Carrier.Events(packet: { _, _ in }, readComplete: { _ in }, writability: { _, _ in }, closed: { _, _ in }))
    let pipeline = channel.pipeline.syncOperations
    if let request { try pipeline.addHandler(ConnectRequestHandler(target: request, limit: answerLimit)) }
    switch security {
    case .open: break
    case .exchange(let identity, let agent, let session, let onOutcome):
      let gate = try identity.secure(pipeline, as: .client, expecting: .agent(agent.text))
      try pipeline.addHandler(
        ClientExchangeHandler(
          name: identity.name, gate: gate, purpose: .open, session: session, carrier: carrier, onOutcome: onOutcome))
    case .sealed(let secret, let preface):
      carrier.seal(with: secret.sealer(carrier: preface.carrier, .toAgent), preface: preface)
      carrier.expectSealed(by: secret.opener(carrier: preface.carrier, .toClient))
    }
    try pipeline.addHandler(carrier)
    self.local = local.address
    self.remote = remote.address
  }
}
