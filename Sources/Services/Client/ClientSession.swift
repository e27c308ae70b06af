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
  /// A carrier that ends while a first flight is parked may end because the flight has arrived: the agent's answer, by the longer way, is waited for so long.
  static let parkedPatience = TimeAmount.milliseconds(500)
  /// Every so many failures in a row the controller is told that the session is stuck.
  static let failuresPerReport = 10

  let machine: MachineID
  let loop: any EventLoop
  /// Tells the controller.
  var report: (NodeReport) -> Void = { _ in }
  /// Of a session that is not sealed.
  private let key: EndpointKey?
  /// Nil: the session is not sealed.
  let certificates: IdentityKeeper?
  /// What the session of `driver` is sealed with; nil until the exchange is over.
  var sealed: (id: SealedSessionID, secret: SessionSecret)?
  /// Why the agent or this client broke the exchange off.
  var exchangeFailure: String?
  /// The session that the driver's exchange opens; other tries may have begun exchanges of their own.
  var exchanging: SealedSessionID?
  var isAsking = false
  let carrierWindow: Int?
  private let limits: FlowLimits
  /// Of sealed sessions.
  private let codec: SessionCodec?
  let logger: Logger
  private var random = SystemRandomNumberGenerator()
  var driver: SessionDriver?
  var recovery: Recovery
  var lastCarrier: UInt64 = 0
  private var epoch: UInt64 = 0
  var attempt: Attempt?
  var activeCarrier: CarrierID?
  private(set) var isFrozen = false
  /// FREEZE has come, and neither GO nor ROLL BACK: the machine does not run where the carrier leads.
  var hasStopped = false
  /// Why the last try to open a session came to nothing.
  private(set) var lastTrouble: String?
  private var thaw: Scheduled<Void>?
  private var opening: EventLoopPromise<Void>?
  /// Closed for good: stopped, or never opened.
  var hasEnded = false
  /// The session has ended, and a new one is being opened in its place.
  private(set) var isReopening = false
  private var isEstablished = false
  /// The first session is waited for as a later one is: the controller may know where the machine has gone.
  var opensPatiently = false
  /// Says to the agent which installation this is; empty where the machine has no identity.
  var identity: [UInt8] = []
  /// The path that PREPARE named for the machine's future place.
  var prepared: Recovery.Place?
  /// Where the session was opened; GO may have named another place meanwhile.
  private var openedAt: Recovery.Place

  /// One try to reach the agent over a new carrier.
  struct Attempt {
    var number: UInt64
    var place: Recovery.Place
    /// The GO it serves, and when that was taken; nil for a recovery of our own.
    var go: (epoch: UInt64, taken: NIODeadline)?
    /// Only the path changes: the carrier in use goes on until this one is confirmed.
    var isShift = false
    var carrier: CarrierID?
    var timer: Scheduled<Void>?
  }
  /// Who has passed a GO on.
  enum Messenger { case controller, agent }
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
    machine: MachineID, agent: Endpoint, key: EndpointKey?, certificates: IdentityKeeper?, carrierWindow: Int?, limits: FlowLimits,
    codec: SessionCodec? = nil, loop: any EventLoop, logger: Logger
  ) {
    self.machine = machine
    self.key = key
    self.certificates = certificates
    self.carrierWindow = carrierWindow
    self.limits = limits
    self.codec = codec
    self.loop = loop
    self.logger = logger
    openedAt = Recovery.Place(agent: agent, path: .direct)
    recovery = Recovery(destination: openedAt)
  }

  // MARK: Opening

  /// Dials the agent and opens the association; succeeds once it is established.
  func open() -> EventLoopFuture<Void> {
    let promise = loop.makePromise(of: Void.self)
    opening = promise
    let agent = recovery.destination.agent
    attempts += 1
    let number = attempts
    dial(recovery.destination) { result in
      guard self.attempts == number, !self.hasEnded else {  // GO came, and led elsewhere
        if case .success(let dialled) = result { dialled.carrier.close("a newer try has taken its place") }
        return
      }
      switch result {
      case .success(let carrier): self.begin(on: carrier)
      case .failure(let error) where self.opensPatiently:
        self.lastTrouble = describe(error)
        self.lookForIt()
      case .failure(let error): self.fail(ClientError.agentUnreachable(self.machine, agent, reason: describe(error)))
      }
    }
    return promise.futureResult
  }

  var isOpen: Bool { isEstablished }

  /// The first try to open a session has failed, or GO has overtaken it.
  private func lookForIt() {
    guard !hasEnded else { return }
    recovery.failed()
    reopen()
  }

  /// Whether this is one of the machine's addresses, as far as they are known.
  func isAt(_ address: IPAddress) -> Bool { recovery.knows(address) || driver?.association.peerAddresses.contains(address) == true }

  /// The agent was started again, or has given the session up: its flows are gone, and the next ones get a new session.
  func reopen() {
    guard !hasEnded else { return }
    isReopening = true
    driver = nil
    sealed = nil
    activeCarrier = nil
    parked = nil
    attempt?.timer?.cancel()
    attempts += 1
    let number = attempts
    let delay = recovery.delay(using: &random)
    let bound = NIOLoopBound(self, eventLoop: loop)
    let timer = loop.scheduleTask(in: .nanoseconds(delay.nanoseconds)) { bound.value.dialAgain(number) }
    attempt = Attempt(number: number, place: recovery.next, timer: timer)
  }

  private func dialAgain(_ number: UInt64) {
    guard let attempt, attempt.number == number, !hasEnded else { return }
    race(recovery.candidates, while: { $0.attempt?.number == number }) { [weak self] result in
      guard let self else { return }
      self.attempt = nil
      switch result {
      case .success((let dialled, let place)):
        self.openedAt = place
        self.begin(on: dialled)
      case .failure(let error):
        self.lastTrouble = describe(error)
        self.logger.debug("no new session with machine \(self.machine) yet: \(describe(error))")
        self.recovery.failed()
        self.reopen()
      }
    }
  }

  private func begin(on dialled: Dialled) {
    // A sealed session's key comes out of the exchange.
    var configuration = AssociationConfiguration(endpointKey: certificates == nil ? key?.associationKey ?? [] : [])
    configuration.scheduler = .fairCapacity
    configuration.localAddresses = [dialled.local]
    let association = Association(
      connecting: configuration, authenticator: CryptoAuthenticator(), random: SystemRandomNumberGenerator(), on: dialled.carrier.id,
      local: dialled.local, remote: dialled.remote, at: SessionDriver.now())
    let driver = SessionDriver(association: association, loop: loop, role: .opener, limits: limits, logger: logger) { _, _ in }
    if let certificates, let codec { driver.encode(with: codec, client: certificates.current.name.description, machine: machine) }
    driver.onEvent = { [unowned self] in self.note($0) }
    self.driver = driver
    exchanging = dialled.session
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
    if let driver { logger.info("session with machine \(machine) closed", metadata: ["octets": "\(driver.figures)"]) }
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
      prepared = Recovery.Place(agent: agent, path: path)
      prepare(Recovery.Place(agent: agent, path: path))
    case .freeze: freeze()
    case .go(_, let token): take(token)
    case .rollBack(_, _, let agent): rollBack(agent)
    case .fence, .warm, .fill, .probe, .expect, .arrived, .withdrawn, .peers: break
    }
  }

  private func freeze() {
    hasStopped = true
    guard !isFrozen else { return }
    isFrozen = true
    driver?.suspendTimeouts()
    let bound = NIOLoopBound(self, eventLoop: loop)
    thaw = loop.scheduleTask(in: ClientSession.freezeLimit) {
      let session = bound.value
      session.logger.warning("no word of machine \(session.machine) since it was frozen: looking for it")
      session.unfreeze()
      if session.activeCarrier == nil, session.attempt == nil {
        session.recovery.search()
        session.tryNow()
      }
    }
  }

  func unfreeze() {
    guard isFrozen else { return }
    isFrozen = false
    thaw?.cancel()
    thaw = nil
    driver?.resumeTimeouts()
  }

  /// GO. A token that is forged, late or for an epoch that has been is refused, and the log says why.
  func take(_ token: GoToken, by messenger: Messenger = .controller) {
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
    // The agent passes one token on to all its clients; the path of this one was in its PREPARE.
    let place = Recovery.Place(agent: token.agent, path: token.path)
    if messenger == .agent, let prepared, prepared.agent == token.agent { head(for: prepared) } else { head(for: place) }
  }

  /// A GO that counts.
  private func head(for place: Recovery.Place) {
    if activeCarrier != nil, attempt == nil, earlyMove == nil, place == recovery.destination {  // where it is already
      unfreeze()
      return report(.moved(machine: machine, epoch: epoch, goToConfirmedMilliseconds: 0))
    }
    logger.info("GO: machine \(machine) is at \(place.agent)", metadata: ["epoch": "\(epoch)", "path": "\(place.path)"])
    let mayShift = !isFrozen && attempt == nil && activeCarrier != nil && place.agent == recovery.confirmed.agent
    unfreeze()
    prepared = nil
    hasStopped = false
    recovery.head(for: place)
    pendingGo = (epoch, .now())
    if opening != nil || isReopening {  // the new session is opened there, or moved there when it stands
      if driver == nil { reopen() }
      return
    }
    give(upOn: "a new GO came")
    if takeParked(at: place) { return }
    if mayShift { shift(to: place) } else { tryNow() }
  }

  /// With certificates only a controller's signature counts; the key that all nodes share would let any of them move a session.
  private func flaw(inSignatureOf token: GoToken) -> String? {
    guard let certificates else { return key?.verify(token) == true ? nil : "its MAC is wrong" }
    do throws(CertificateError) {
      try certificates.current.verify(token)
      return nil
    } catch {
      return "\(error)"
    }
  }

  /// A GO that came while there was no session.
  private func serveGo() {
    guard let go = pendingGo else { return }
    guard openedAt != recovery.destination else {
      pendingGo = nil
      return report(.moved(machine: machine, epoch: go.epoch, goToConfirmedMilliseconds: milliseconds(from: go.taken, to: .now())))
    }
    tryNow()
  }
}

// MARK: - Carriers

extension ClientSession {
  private func note(_ event: SessionEvent) {
    switch event {
    case .established:
      isEstablished = true
      if !identity.isEmpty { driver?.tell(SessionMessage(.identity, identity)) }
      if isReopening {
        isReopening = false
        let destination = recovery.destination
        recovery.succeeded(at: openedAt)
        if pendingGo != nil { recovery.head(for: destination) }
        logger.notice("a new session with machine \(machine) is open")
        report(.event("a new session with machine \(machine) is open"))
      }
      opening?.succeed(())
      opening = nil
      serveGo()
    case .moved(let carrier): confirmMove(to: carrier)
    case .peerAnnounced(let address): recovery.announce(address)
    case .peerWithdrew(let address): recovery.withdraw(address)
    case .carrierClosed(let carrier, let reason): lost(carrier, reason)
    case .carrierSilent(let carrier):
      guard carrier == activeCarrier, attempt == nil, !isFrozen else { return }
      // The flight waits where the machine will be; the far accelerator lets it go when nobody says any more that the machine is coming.
      if hasStopped, parked?.carrier != nil { return }
      logger.info("the carrier to machine \(machine) is silent: looking for it")
      recovery.search()
      tryNow()
    case .told(let message): hear(message)
    case .ended(let reason): end(reason)
    case .agentForgot: askAgent()
    case .announced, .withdrawn, .announcementRefused, .roundTrip: break
    }
  }

  private func lost(_ carrier: CarrierID, _ reason: String) {
    if opening != nil, !opensPatiently {
      if let exchangeFailure { return fail(ClientError.notSealed(machine, recovery.destination.agent, reason: exchangeFailure)) }
      return fail(ClientError.agentUnreachable(machine, recovery.destination.agent, reason: reason))
    }
    if carrier == activeCarrier { activeCarrier = nil }
    guard !hasEnded, !isReopening, isEstablished else { return }  // the association's own end follows
    if carrier == parked?.carrier?.id { parked = nil }
    if carrier == attempt?.carrier {
      let place = attempt?.place
      let wasShift = attempt?.isShift == true
      give(upOn: reason)
      if wasShift, let place { return stay(reason, notAt: place) }
      recovery.failed(at: place)
      tryAgain()
    } else if activeCarrier == nil, attempt == nil, !isFrozen {
      logger.info("the carrier to machine \(machine) was lost: \(reason)")
      if parked?.carrier == nil { tryNow() } else { tryLater(ClientSession.parkedPatience) }
    }
  }

  private func end(_ reason: String?) {
    guard !hasEnded else { return }  // by `close`, or by what kept it from opening
    let wasEstablished = isEstablished
    isEstablished = false
    attempt?.timer?.cancel()
    attempt = nil
    if opening != nil, !opensPatiently || isRefusal(reason) {
      hasEnded = true
      fail(ClientError.sessionRefused(machine, recovery.destination.agent, reason: reason ?? "it was shut down"))
    } else {
      if !isReopening, wasEstablished {
        logger.error("session with machine \(machine) ended: \(reason ?? "shut down by its agent"); opening a new one")
        report(.stuck(machine: machine, epoch: epoch, reason: "session ended: \(reason ?? "shut down by its agent")"))
      }
      recovery.failed()
      reopen()
    }
  }

  /// An agent that says no will say it again; one that was not reached may be reached later, or elsewhere.
  private func isRefusal(_ reason: String?) -> Bool {
    let unreached: [AssociationError] = [.carrierLostInHandshake, .handshakeTimedOut]
    return !unreached.contains { $0.description == reason }
  }

  func tryAgain() {
    attempt?.timer?.cancel()
    attempt = nil
    guard !hasEnded, !isFrozen, driver != nil else { return }  // FREEZE: GO, ROLL BACK or its limit goes on
    if recovery.failures > 0, recovery.failures % ClientSession.failuresPerReport == 0 {
      report(.stuck(machine: machine, epoch: epoch, reason: "\(recovery.failures) tries failed, the last at \(recovery.next.agent)"))
    }
    tryLater(.nanoseconds(recovery.delay(using: &random).nanoseconds))
  }

  private func tryLater(_ delay: TimeAmount) {
    attempts += 1
    let number = attempts
    let bound = NIOLoopBound(self, eventLoop: loop)
    let timer = loop.scheduleTask(in: delay) { bound.value.start(number) }
    attempt = Attempt(number: number, place: recovery.next, go: pendingGo, timer: timer)
  }

  func tryNow() {
    guard !hasEnded, driver != nil else { return }
    attempt?.timer?.cancel()
    attempts += 1
    attempt = Attempt(number: attempts, place: recovery.next, go: pendingGo)
    start(attempts)
  }

  private func start(_ number: UInt64) {
    guard let attempt, attempt.number == number else { return }
    race(recovery.candidates, while: { $0.attempt?.number == number }) { [weak self] result in
      guard let self else { return }
      switch result {
      case .success((let dialled, let place)):
        self.attempt?.place = place
        self.move(to: dialled)
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
    hasStopped = false
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
      report(.recovered(machine: machine, agent: attempt.place.agent))
    }
    self.attempt = nil
  }

  func give(upOn reason: String) {
    attempt?.timer?.cancel()
    attempt = nil
    logger.debug("a try to reach machine \(machine) was given up: \(reason)")
  }
}

func milliseconds(from: NIODeadline, to: NIODeadline) -> Double { Double((to - from).nanoseconds) / 1e6 }
