import Authentication
import Certificates
import ChunkStores
import Compression
import Control
import ControlLink
import Logging
import NIOCore
import NIOPosix
import Probing
import Synchronization
import Sockets
import Tunnel
import Vocabulary

/// Where an accelerator takes connections in, once it is ready.
package struct AcceleratorPlaces: Sendable, Hashable {
  package var entrance: Endpoint?
  package var socks: Endpoint?
  package var forwards: [Endpoint] = []
  package var transparent: Endpoint?
  package var tunnel: Endpoint?
  package var probe: Endpoint?
  package var metrics: Endpoint?

  package init() {}
}

/// The accelerator: its entrance, its tunnels, and the link to the controller.
package final class AcceleratorService: Sendable {
  private let current: Mutex<AcceleratorSettings>
  private let givenStore: (any ChunkStore)?
  let logger: Logger
  /// The shards while the service runs.
  let shards = Mutex<[NIOLoopBound<Shard>]>([])
  /// Who has which flows, once the service has run.
  let ledger = Mutex<FlowLedger?>(nil)
  let figuresState = Mutex(FiguresState())
  /// The byte cache while the service runs.
  let openStore = Mutex<(any ChunkStore)?>(nil)
  /// What is to be done before the service ends; one word ends it.
  private let (endings, ending) = AsyncStream.makeStream(of: Ending.self)
  /// Probes other sites for the controller, while the service runs with one.
  private let prober = Mutex<NIOLoopBound<PathProber>?>(nil)

  private let prepareThread: (@Sendable () throws -> Void)?

  /// - Parameters:
  ///   - store: the byte cache, where it is not to be opened as the settings say.
  ///   - prepareThread: runs first on each event loop's thread, whose network is then the one that the accelerator uses.
  package init(
    settings: AcceleratorSettings, store: (any ChunkStore)? = nil, logger: Logger, prepareThread: (@Sendable () throws -> Void)? = nil
  ) {
    current = Mutex(settings)
    givenStore = store
    self.prepareThread = prepareThread
    self.logger = logger
  }

  /// As they count now.
  var settings: AcceleratorSettings {
    get { current.withLock { $0 } }
    set { current.withLock { $0 = newValue } }
  }

  private enum Ending: Sendable {
    case drain
  }

  /// Takes nothing new in any more, and ends when all flows have ended, or the time for it is over. A second call is without effect.
  package func drain() {
    ending.yield(.drain)
    ending.finish()
  }

  /// Runs until its task is cancelled. `ready` is called once entrance and tunnels are listened on; peers may still be being dialled then.
  package func run(ready: (@Sendable (AcceleratorPlaces) -> Void)? = nil) async throws {
    try settings.check()
    FileLimit.raise()
    let (security, credentials) = try proofs()
    var watching: Task<Void, Never>?
    if case .certificates(let keeper) = security { watching = keeper.watching(logger: logger) }
    defer { watching?.cancel() }
    let group = MultiThreadedEventLoopGroup(numberOfThreads: settings.loops)
    let store: (any ChunkStore)?
    do {
      store = try givenStore ?? settings.cache.open(logger: logger)
    } catch {
      try? await group.shutdownGracefully()
      throw error
    }
    do {
      try await run(security: security, credentials: credentials, store: store, on: group, ready: ready)
    } catch {
      try? await group.shutdownGracefully()
      await store?.close()
      throw error
    }
    try await group.shutdownGracefully()
    await store?.close()
  }

  /// With certificates the key is not looked at: what it would prove is proved already.
  private func proofs() throws -> (TunnelSecurity, ControlCredentials) {
    if let folder = settings.certificates {
      let keeper = try IdentityKeeper(directory: folder)
      let name = keeper.current.name
      guard name == NodeName(role: .accelerator, name: settings.node.text) else {
        throw AcceleratorError.anotherCertificate(name, node: settings.node)
      }
      return (.certificates(keeper), .certificates(keeper))
    }
    guard let file = settings.keyFile else { throw AcceleratorError.noProof }
    let key = try EndpointKey(contentsOf: file)
    return (.key(key), .token(key.bearerToken))
  }

  private func run(
    security: TunnelSecurity, credentials: ControlCredentials, store: (any ChunkStore)?, on group: MultiThreadedEventLoopGroup,
    ready: (@Sendable (AcceleratorPlaces) -> Void)?
  ) async throws {
    let reporter = Reporter()
    let shares = PacingShares()
    let ledger = FlowLedger(settings)
    self.ledger.withLock { $0 = ledger }
    let services = ServiceBook()
    var made: [NIOLoopBound<Shard>] = []
    for loop in group.makeIterator() {
      let shard = try await loop.submit { [settings, logger, prepareThread] in
        try prepareThread?()
        return NIOLoopBound(
          Shard(
            loop: loop, settings: settings, security: security, store: store, services: services, shares: shares, ledger: ledger,
            report: { reporter.report($0) },
            logger: logger),
          eventLoop: loop)
      }.get()
      made.append(shard)
    }
    let byLoop = Dictionary(made.map { (ObjectIdentifier($0.eventLoop), $0) }) { first, _ in first }
    var places = AcceleratorPlaces()
    var listening: [any Channel] = []
    for (entrance, place, option) in settings.entrancesInOrder {
      let channel = try await listen(on: place, option, group, { entrance.prepare($0) }) { channel in
        try byLoop[ObjectIdentifier(channel.eventLoop)]?.value.take(channel, by: entrance)
      }
      places.note(entrance, at: channel.localAddress?.vocabulary ?? place)
      listening.append(channel)
    }
    if let tunnel = settings.tunnel {
      let channel = try await listen(on: tunnel, "--tunnel", group, { Self.tunnelOptions($0) }) { channel in
        try byLoop[ObjectIdentifier(channel.eventLoop)]?.value.takeTunnel(channel)
      }
      places.tunnel = channel.localAddress?.vocabulary ?? tunnel
      listening.append(channel)
    }
    let responder = try await answerProbes(on: group.next())
    places.probe = responder?.endpoint
    for shard in made { try await shard.eventLoop.submit { shard.value.start() }.get() }
    shards.withLock { $0 = made }
    openStore.withLock { $0 = store }
    defer {
      shards.withLock { $0 = [] }
      openStore.withLock { $0 = nil }
    }
    let figures = try await tellFigures(on: group.next(), security)
    places.metrics = figures?.endpoint
    let link = await connect(to: settings.controller, credentials: credentials, places: places, on: group.next(), reporter)
    logger.info(
      "accelerator ready",
      metadata: [
        "node": "\(settings.node)", "entrance": "\(places.entrance.map(\.description) ?? "-")",
        "tunnel": "\(places.tunnel.map(\.description) ?? "-")", "probe": "\(places.probe.map(\.description) ?? "-")",
        "peers": "\(settings.peers.map { "\($0.node)=\($0.tunnel)" }.joined(separator: " "))",
      ])
    if !TCPSocket.keepsIdleWindows() {
      logger.notice(
        "this kernel closes the windows of idle connections; `sysctl -w net.ipv4.tcp_slow_start_after_idle=0` keeps tunnels warm")
    }
    ready?(places)
    let isDraining = await untilToldToEnd()
    for channel in listening { try? await channel.close() }
    if isDraining { try await endFlows() }
    await responder?.close()
    await figures?.close()
    if let prober = takeProber() { try await prober.eventLoop.submit { prober.value.stop() }.get() }
    if let link { try await link.eventLoop.submit { link.value.stop() }.get() }
    for shard in made { try await shard.eventLoop.submit { shard.value.stop() }.get() }
  }

  /// Follows an order of the controller; those that concern sessions are not for accelerators.
  package func handle(_ order: NodeOrder) {
    switch order {
    case .warm(let peer, let rate, let roundTrip, let hold):
      let request = WarmRequest(rate: rate, roundTrip: .milliseconds(max(roundTrip, 0)), hold: .milliseconds(max(hold, 0)))
      for shard in shards.withLock({ $0 }) { shard.eventLoop.execute { shard.value.warm(peer: peer, request) } }
    case .fill(let peer, let service, let hold):
      // Tunnels to the peer are spread over the loops; the first loop that has one does it all.
      let limit = TimeAmount.milliseconds(min(max(hold, 0), 3_600_000))
      fill(peer, of: service, for: limit, by: shards.withLock { $0 }[...])
    case .expect(let agent, let hold):
      let limit = TimeAmount.milliseconds(min(max(hold, 0), 3_600_000))  // an hour: no order is meant for longer
      for shard in shards.withLock({ $0 }) { shard.eventLoop.execute { shard.value.expect(agent, for: limit) } }
    case .arrived(let agent):
      for shard in shards.withLock({ $0 }) { shard.eventLoop.execute { shard.value.release(agent, hasArrived: true) } }
    case .withdrawn(let agent):
      for shard in shards.withLock({ $0 }) { shard.eventLoop.execute { shard.value.release(agent, hasArrived: false) } }
    case .peers(let map):
      logger.info("peers by the controller's map: \(map.isEmpty ? "none" : map.map { "\($0.node)=\($0.tunnel)" }.joined(separator: " "))")
      for shard in shards.withLock({ $0 }) { shard.eventLoop.execute { shard.value.follow(map) } }
    case .probe(let targets):
      guard let prober = prober.withLock({ $0 }) else { return }
      prober.eventLoop.execute { prober.value.watch(targets) }
    case .prepare, .freeze, .go, .rollBack, .fence: break
    }
  }

  private func fill(_ peer: NodeID, of service: IPAddress, for hold: TimeAmount, by left: ArraySlice<NIOLoopBound<Shard>>) {
    guard let shard = left.first else {
      logger.warning("cannot tell \(peer) what is cached of \(service): there is no tunnel to it; make the two --peer of each other")
      return
    }
    shard.eventLoop.execute {
      if !shard.value.fill(peer, of: service, for: hold) { self.fill(peer, of: service, for: hold, by: left.dropFirst()) }
    }
  }

  /// Tunnel connections with this peer that carry flows, on all loops.
  package func establishedConnections(to peer: NodeID) async throws -> Int {
    var count = 0
    for shard in shards.withLock({ $0 }) { count += try await shard.eventLoop.submit { shard.value.establishedCount(to: peer) }.get() }
    return count
  }

  /// Flows that live on all tunnels, those that are being opened included.
  package func flowCount() async throws -> Int {
    var count = 0
    for shard in shards.withLock({ $0 }) { count += try await shard.eventLoop.submit { shard.value.flowCount }.get() }
    return count
  }

  /// Connections of applications that are open, on all loops.
  package func enteredCount() async throws -> Int {
    var count = 0
    for shard in shards.withLock({ $0 }) { count += try await shard.eventLoop.submit { shard.value.entered }.get() }
    return count
  }

  /// Flows that went by no tunnel since the start, and why.
  package func passedThrough() async throws -> PassedThrough {
    var sum = PassedThrough()
    for shard in shards.withLock({ $0 }) { sum += try await shard.eventLoop.submit { shard.value.passed }.get() }
    return sum
  }

  /// What the flows of all tunnels came to since the start, those that still live included.
  package func statistics() async throws -> FlowStatistics {
    var sum = FlowStatistics()
    for shard in shards.withLock({ $0 }) { sum += try await shard.eventLoop.submit { shard.value.statistics }.get() }
    return sum
  }

  /// Ends every tunnel connection with a RST, as a network that forgets them does: for tests of what comes after.
  package func cutTunnels() async throws {
    for shard in shards.withLock({ $0 }) { try await shard.eventLoop.submit { shard.value.cutTunnels() }.get() }
  }
}

// MARK: Helpers

extension AcceleratorService {
  private typealias Options = @Sendable (ServerBootstrap) -> ServerBootstrap

  private func listen(
    on endpoint: Endpoint, _ option: String, _ group: MultiThreadedEventLoopGroup, _ options: @escaping Options,
    _ take: @escaping @Sendable (any Channel) throws -> Void
  ) async throws(AcceleratorError) -> any Channel {
    do {
      let address = try SocketAddress(endpoint)
      // On a loop's thread: NIO makes the socket where it is asked to, in that thread's network.
      return try await group.next().flatSubmit {
        options(
          ServerBootstrap(group: group)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelOption(.backlog, value: 1_024)
            .childChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { try take(channel) } }
        ).bind(to: address)
      }.get()
    } catch {
      throw .cannotListen(endpoint, option: option, reason: describe(error))
    }
  }

  private func answerProbes(on loop: any EventLoop) async throws(AcceleratorError) -> ProbeResponder? {
    guard let probe = settings.probe else { return nil }
    do {
      return try await ProbeResponder.bind(to: probe, on: loop, logger: logger)
    } catch {
      throw .cannotListen(probe, option: "--probe", reason: describe(error))
    }
  }

  private func takeProber() -> NIOLoopBound<PathProber>? {
    prober.withLock { held in
      defer { held = nil }
      return held
    }
  }

  private static func tunnelOptions(_ bootstrap: ServerBootstrap) -> ServerBootstrap {
    bootstrap
      .childChannelOption(.writeBufferWaterMark, value: TCPSocket.waterMarks)
      .childChannelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: TCPSocket.readOctets))
  }

  private func connect(
    to controller: Endpoint?, credentials: ControlCredentials, places: AcceleratorPlaces, on loop: any EventLoop, _ reporter: Reporter
  )
    async -> NIOLoopBound<ControlLink>?
  {
    guard let controller else { return nil }
    let description = NodeDescription(
      node: settings.node, role: .accelerator, site: settings.site, entrance: places.entrance,
      tunnel: places.tunnel.flatMap { $0.address.isUnspecified ? nil : $0 }, probe: places.probe)
    let making = loop.submit { [logger] in
      let link = ControlLink(
        loop: loop, controller: controller, description: description, credentials: credentials, sources: [], logger: logger,
        onOrder: { [weak self] in self?.handle($0) })
      let probing = PathProber(loop: loop, logger: logger) { link.report($0) }
      self.prober.withLock { $0 = NIOLoopBound(probing, eventLoop: loop) }
      link.start()
      return NIOLoopBound(link, eventLoop: loop)
    }
    guard let link = try? await making.get() else { return nil }
    reporter.connect { report in link.eventLoop.execute { link.value.report(report) } }
    return link
  }

  /// True: flows that live may go on for a while. False: the task was cancelled.
  private func untilToldToEnd() async -> Bool {
    await withTaskCancellationHandler {
      for await case .drain in endings { return !Task.isCancelled }
      return false
    } onCancel: {
      ending.finish()
    }
  }
}

/// Takes the shards' reports to the controller, if there is one. Reports are rare; octets never come here.
private final class Reporter: Sendable {
  private let sink = Mutex<(@Sendable (NodeReport) -> Void)?>(nil)

  func connect(_ sink: @escaping @Sendable (NodeReport) -> Void) { self.sink.withLock { $0 = sink } }
  func report(_ report: NodeReport) { sink.withLock { $0 }?(report) }
}
