import Authentication
import Carriers
import Certificates
import ChunkStores
import Control
import ControlLink
import Flows
import Logging
import NIOCore
import NIOPosix
import Relay
import SCTP
import Sockets
import Vocabulary

/// The agent: listens for carriers, keeps the sessions, and follows the controller's orders.
package final class AgentService: Sendable {
  private let settings: AgentSettings
  private let logger: Logger
  private let loop: any EventLoop

  /// - Parameter loop: where everything of it runs; its thread's network is the one that it uses.
  package init(
    settings: AgentSettings, logger: Logger, on loop: any EventLoop = MultiThreadedEventLoopGroup.singleton.next()
  ) {
    self.settings = settings
    self.logger = logger
    self.loop = loop
  }

  /// Runs until its task is cancelled. `ready` is called with the port once carriers are accepted.
  package func run(ready: (@Sendable (Endpoint) -> Void)? = nil) async throws {
    let key = try settings.keyFile.map { try EndpointKey(contentsOf: $0) }
    let identity = try settings.certificates.map { try IdentityKeeper(directory: $0) }
    if let name = identity?.current.name, name != NodeName(role: .agent, name: settings.machine.text) {
      throw AgentError.anotherCertificate(name, machine: settings.machine)
    }
    guard let credentials = ControlCredentials(token: key?.bearerToken, identity: identity) else { throw AgentError.noCredentials }
    // Sessions that are not sealed leave the codec to accelerators.
    let store = try identity == nil || !settings.compresses ? nil : settings.cache.open(logger: logger)
    do {
      try await run(key: key, identity: identity, credentials: credentials, store: store, ready: ready)
    } catch {
      await store?.close()
      throw error
    }
    await store?.close()
  }

  private func run(
    key: EndpointKey?, identity: IdentityKeeper?, credentials: ControlCredentials, store: (any ChunkStore)?,
    ready: (@Sendable (Endpoint) -> Void)?
  ) async throws {
    let loop = self.loop
    let settings = self.settings
    let logger = self.logger
    let state = try await loop.submit {
      NIOLoopBound(
        AgentState(settings: settings, key: key, identity: identity, credentials: credentials, store: store, loop: loop, logger: logger),
        eventLoop: loop)
    }.get()
    let listening: any Channel
    do {
      listening = try await AgentService.listen(on: settings, loop: loop, state: state, logger: logger)
    } catch {
      throw AgentError.cannotListen(settings.listen, reason: describe(error))
    }
    let address = listening.localAddress?.vocabulary ?? settings.listen
    logger.info("agent ready", metadata: ["listen": "\(address)", "machine": "\(settings.machine)"])
    let watching = identity?.watching(logger: logger)
    defer { watching?.cancel() }
    try await loop.submit { state.value.start() }.get()
    ready?(address)
    try await withTaskCancellationHandler {
      try await listening.closeFuture.get()
    } onCancel: {
      listening.close(promise: nil)
    }
    try await loop.submit { state.value.stop() }.get()
  }

  private static func listen(on settings: AgentSettings, loop: any EventLoop, state: NIOLoopBound<AgentState>, logger: Logger) async throws
    -> any Channel
  {
    let address = try SocketAddress(settings.listen)
    // On the loop's thread: the socket is of that thread's network.
    return try await loop.flatSubmit { bootstrap(settings, loop, state).bind(to: address) }.get()
  }

  private static func bootstrap(_ settings: AgentSettings, _ loop: any EventLoop, _ state: NIOLoopBound<AgentState>) -> ServerBootstrap {
    ServerBootstrap(group: loop)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      // All clients of a machine come at once when it has moved; what the queue does not hold comes again after a second. The kernel takes at most net.core.somaxconn, 4,096.
      .serverChannelOption(.backlog, value: 4_096)
      .childChannelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
      .childChannelOption(.recvAllocator, value: growingReads(upTo: 128 << 10))
      .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try CarrierOptions.apply(to: channel, window: settings.carrierWindow)
          try state.value.acceptor.accept(channel)
        }
      }
  }
}

/// What an agent holds, on its event loop.
private final class AgentState {
  /// An agent that hears nothing learns so after this and the silence limit.
  static let heartbeatInterval = TimeSpan.seconds(10 as Int64)

  let settings: AgentSettings
  let loop: any EventLoop
  let logger: Logger
  /// Of sealed sessions.
  private let codec: SessionCodec
  private let dialler: ServiceDialler
  private var link: ControlLink?
  private(set) var acceptor: SessionAcceptor
  /// Addresses that the controller has told us to announce, and that were not withdrawn.
  private var announced: [IPAddress: Endpoint] = [:]
  /// Sessions that have not acknowledged an announcement yet.
  private var unacknowledged: [IPAddress: Set<ObjectIdentifier>] = [:]
  private var activeAddress: IPAddress?
  /// From a move until its figures are told: what is sent again goes out with the switch, as fast as the new carrier takes it.
  private static let settling = TimeAmount.milliseconds(500)
  /// 50 sessions every 50 ms are 1,000 a second: a handshake of TCP and a first flight cost the agent less than half a millisecond each.
  private static let toldAtOnce = 50
  private static let tellingPause = TimeAmount.milliseconds(50)
  /// What carriers that were left had taken with them, for each session; kept at debug level only.
  private var underWay: [ObjectIdentifier: Int] = [:]
  private var roll = SessionRoll()
  private var watch: AddressWatch?
  /// Addresses that the machine has got since the agent began, without a word of the controller: announced, since clients may need them when it moves unplanned.
  private var found: Set<IPAddress> = []

  init(
    settings: AgentSettings, key: EndpointKey?, identity: IdentityKeeper?, credentials: ControlCredentials,
    store: (any ChunkStore)?, loop: any EventLoop, logger: Logger
  ) {
    self.settings = settings
    self.loop = loop
    self.logger = logger
    codec = SessionCodec(compresses: settings.compresses, store: store, pinned: SessionCodec.agentPins)
    let budget = DescriptorBudget()
    dialler = ServiceDialler(
      loop: loop, machine: settings.machine, addresses: settings.addresses, budget: budget, logger: logger)
    func makeListener(endpointKey: [UInt8]) -> SessionListener {
      var configuration = AssociationConfiguration(endpointKey: endpointKey)
      configuration.scheduler = .fairCapacity
      // Its clients ask every second, and it is they who look for another path; ten thousand of them need not be asked as often in turn.
      configuration.heartbeatInterval = AgentState.heartbeatInterval
      return Listener(
        configuration: configuration, authenticator: CryptoAuthenticator(), cookieSecret: EndpointKey.randomOctets(32),
        random: SystemRandomNumberGenerator())
    }
    var onSession: ((SessionDriver) -> Void)?
    acceptor = SessionAcceptor(
      listener: makeListener(endpointKey: key?.associationKey ?? []),
      sealing: identity.map { SessionAcceptor.Sealed(identity: $0, makeListener: makeListener) },
      limits: settings.limits, loop: loop, logger: logger, budget: budget
    ) { onSession?($0) }
    onSession = { [unowned self] in self.begin($0) }
    var known = AddressWatch.present()
    watch = AddressWatch(loop: loop) { [unowned self] present in
      self.addressesChanged(from: known, to: present)
      known = present
    }
    guard let controller = settings.controller else { return }
    link = ControlLink(
      loop: loop, controller: controller, description: NodeDescription(node: settings.node, role: .agent, machine: settings.machine),
      credentials: credentials, sources: settings.addresses, logger: logger,
      onOrder: { [unowned self] in self.follow($0) })
  }

  func start() {
    link?.start()
    watch?.start()
  }

  func stop() {
    watch?.stop()
    link?.stop()
    for session in acceptor.all { session.abort("the agent has been stopped") }
  }

  // MARK: Sessions

  private func begin(_ session: SessionDriver) {
    let dialler = self.dialler
    session.hub.onIncoming = { [unowned session] in dialler.dial($1, flow: $0, hub: session.hub) }
    session.onEvent = { [unowned self, unowned session] in self.note($0, of: session) }
    if let client = session.clientName { session.encode(with: codec, client: client, machine: settings.machine) }
    logger.info("session opened", metadata: ["sessions": "\(acceptor.count)"])
  }

  private func note(_ event: SessionEvent, of session: SessionDriver) {
    switch event {
    case .established:
      for address in found.union(announced.keys).sorted(by: { $0.description < $1.description }) { session.announce(address) }
    case .moved:
      noteMove(of: session)
      tellFigures(of: session)
    case .announced(let address):
      acknowledged(address, by: session)
    case .announcementRefused(let address, let reason):
      logger.warning("a client refused the address \(address): \(reason)")
    case .carrierClosed(let id, let reason):
      logger.debug("carrier closed", metadata: ["carrier.id": "\(id.value)", "reason": "\(reason)"])
      if session.association.activeCarrier == nil { freeIfSuperseded(session) }
    case .carrierSilent: freeIfSuperseded(session)
    case .told(let message): if message.kind == .identity { identify(session, as: message.octets) }
    case .ended(let reason):
      acceptor.remove(session)
      roll.leave(ObjectIdentifier(session))
      underWay[ObjectIdentifier(session)] = nil
      for address in unacknowledged.keys { acknowledged(address, by: session) }  // it will not any more
      logger.info(
        "session ended: \(reason ?? "by its client")", metadata: ["sessions": "\(acceptor.count)", "octets": "\(session.figures)"])
    case .peerAnnounced, .peerWithdrew, .withdrawn, .roundTrip, .agentForgot: break
    }
  }

  /// For those who measure: what moves have cost so far, once this one is through.
  private func tellFigures(of session: SessionDriver) {
    guard logger.logLevel <= .debug else { return }
    let id = ObjectIdentifier(session)
    underWay[id, default: 0] += session.association.octetsToSendAgain
    let bound = NIOLoopBound((state: self, session: session), eventLoop: loop)
    _ = loop.scheduleTask(in: AgentState.settling) {
      let (state, session) = bound.value
      guard let underWay = state.underWay[id] else { return }
      let figures = session.association.statistics
      let name = String(session.association.localVerificationTag, radix: 16)
      state.logger.debug("moves so far: session \(name) moves \(figures.moves) again \(figures.octetsRetransmitted) under-way \(underWay)")
    }
  }

  /// Says it to all sessions that have a carrier, not to all at once: those that move come back with a connection each. Whoever gets a GO judges its signature; one that has moved, or has heard of
  /// it otherwise, passes it over.
  private func pass(_ message: SessionMessage, to sessions: ArraySlice<SessionDriver>) {
    for session in sessions.prefix(AgentState.toldAtOnce) where session.association.activeCarrier != nil { session.tell(message) }
    let rest = sessions.dropFirst(AgentState.toldAtOnce)
    guard !rest.isEmpty else { return }
    let bound = NIOLoopBound((state: self, rest: rest), eventLoop: loop)
    _ = loop.scheduleTask(in: AgentState.tellingPause) { bound.value.state.pass(message, to: bound.value.rest) }
  }

  // MARK: Clients that come back

  private func identify(_ session: SessionDriver, as identity: [UInt8]) {
    // With certificates nobody says it in another client's name.
    let clientName = Array((session.clientName ?? "").utf8) + [0]
    logger.debug("a client has said which one it is", metadata: ["sessions": "\(acceptor.count)"])
    guard let earlier = roll.enter(ObjectIdentifier(session), as: identity.isEmpty ? [] : clientName + identity) else { return }
    guard let dead = acceptor.all.first(where: { ObjectIdentifier($0) == earlier }), dead.association.activeCarrier == nil else { return }
    freeIfSuperseded(dead)
  }

  /// Its client has opened another session since, and it has nobody at its other end: it is not waited for any longer.
  private func freeIfSuperseded(_ session: SessionDriver) {
    guard roll.isSuperseded(ObjectIdentifier(session)) else { return }
    // Not from within a turn of the session's own.
    let bound = NIOLoopBound(session, eventLoop: loop)
    loop.execute { bound.value.abort("its client has come back with a new session") }
  }

  // MARK: Its own network

  /// The machine has found itself with other addresses. A new one is announced while the carriers still live; a lost one may have been the link's.
  private func addressesChanged(from before: Set<IPAddress>, to now: Set<IPAddress>) {
    func sorted(_ addresses: Set<IPAddress>) -> [IPAddress] { addresses.sorted { $0.description < $1.description } }
    let new = sorted(now.subtracting(before)).filter { settings.addresses.isEmpty || settings.addresses.contains($0) }
    for address in new {
      logger.info("this machine has the address \(address) now", metadata: ["sessions": "\(acceptor.count)"])
      found.insert(address)
      for session in acceptor.all { session.announce(address) }
    }
    let lost = before.subtracting(now)
    for address in sorted(found.intersection(lost)) where announced[address] == nil {
      for session in acceptor.all { session.withdraw(address) }
    }
    found.subtract(lost)
    if !lost.isEmpty { link?.reconnect(from: new.first) }
  }

  private func acknowledged(_ address: IPAddress, by session: SessionDriver) {
    guard unacknowledged[address]?.remove(ObjectIdentifier(session)) != nil, unacknowledged[address]?.isEmpty == true,
      let endpoint = announced[address]
    else { return }
    link?.report(.announced(machine: settings.machine, agent: endpoint, sessions: acceptor.count))
  }

  /// The first session that moves tells which address works now; the link to the controller follows it.
  private func noteMove(of session: SessionDriver) {
    guard let address = session.activeLocalAddress, address != activeAddress else { return }
    activeAddress = address
    logger.info("sessions arrive at \(address) now")
    link?.reconnect(from: address)
  }

  // MARK: Orders

  private func follow(_ order: NodeOrder) {
    switch order {
    case .prepare(_, let machine, let agent, _):
      guard machine == settings.machine, announced[agent.address] == nil else { return }
      announced[agent.address] = agent
      // Where the machine has found the address by itself, its clients know it.
      let ignorant = acceptor.all.filter { !$0.association.localAddresses.contains(agent.address) }
      unacknowledged[agent.address] = Set(ignorant.map { ObjectIdentifier($0) })
      if ignorant.isEmpty, acceptor.count > 0 { link?.report(.announced(machine: machine, agent: agent, sessions: acceptor.count)) }
      logger.info("announcing \(agent.address)", metadata: ["sessions": "\(acceptor.count)"])
      for session in acceptor.all { session.announce(agent.address) }
    case .rollBack(_, let machine, let agent):
      guard machine == settings.machine, announced.removeValue(forKey: agent.address) != nil else { return }
      unacknowledged[agent.address] = nil
      logger.info("withdrawing \(agent.address)")
      for session in acceptor.all { session.withdraw(agent.address) }
    case .fence(_, let machine, let agent):
      guard machine == settings.machine else { return }
      announced = [:]
      unacknowledged = [:]
      for session in acceptor.all {
        for address in session.association.localAddresses where address != agent.address { session.withdraw(address) }
      }
    case .go(_, let token):
      guard token.machine == settings.machine else { return }
      pass(SessionMessage(.go, token.octets), to: acceptor.all[...])
    case .freeze, .warm, .fill, .probe, .expect, .arrived, .withdrawn, .peers: break
    }
  }
}
