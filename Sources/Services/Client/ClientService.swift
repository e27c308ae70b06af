import Authentication
import Carriers
import Certificates
import ChunkStores
import Control
import ControlLink
import Flows
import Interception
import Logging
import NIOCore
import NIOPosix
import Relay
import Sockets
import Vocabulary

/// Where a client takes applications in, once it is ready.
package struct ClientEntrances: Sendable, Hashable {
  package var socks: Endpoint?
  package var httpConnect: Endpoint?
  package var forwards: [Endpoint] = []
}

/// The client: one session for each machine, the entrances for applications, and the link to the controller.
package final class ClientService: Sendable {
  private let settings: ClientSettings
  private let logger: Logger
  private let loop: any EventLoop

  /// - Parameter loop: where everything of it runs; its thread's network is the one that it uses.
  package init(
    settings: ClientSettings, logger: Logger, on loop: any EventLoop = MultiThreadedEventLoopGroup.singleton.next()
  ) {
    self.settings = settings
    self.logger = logger
    self.loop = loop
  }

  /// Runs until its task is cancelled. `ready` is called once every session is established and every entrance listens.
  package func run(ready: (@Sendable (ClientEntrances) -> Void)? = nil) async throws {
    let key = try settings.keyFile.map { try EndpointKey(contentsOf: $0) }
    let keeper = try settings.certificates.map { try IdentityKeeper(directory: $0) }
    if let name = keeper?.current.name, name.role != .client { throw ClientError.anotherCertificate(name) }
    guard let credentials = ControlCredentials(token: key?.bearerToken, identity: keeper) else { throw ClientError.noCredentials }
    try check()
    FileLimit.raise()
    let loop = self.loop
    let settings = self.settings
    let logger = self.logger
    let agents = try settings.machines.map { try agent(of: $0) }
    // Sessions that are not sealed leave the codec to accelerators.
    let store = try keeper == nil || !settings.compresses ? nil : settings.cache.open(logger: logger)
    let state = try await loop.submit {
      let codec = SessionCodec(compresses: settings.compresses, store: store, pinned: SessionCodec.clientPins)
      return NIOLoopBound(
        ClientState(
          settings: settings, agents: agents, key: key, certificates: keeper, credentials: credentials, codec: codec, loop: loop,
          logger: logger),
        eventLoop: loop)
    }.get()
    let watching = keeper?.watching(logger: logger)
    defer { watching?.cancel() }
    do {
      try await loop.flatSubmit { state.value.openSessions() }.get()
      let entrances = try await listen(on: loop, state: state)
      logger.info(
        "client ready", metadata: ["socks": "\(entrances.found.socks.map(\.description) ?? "-")", "machines": "\(settings.machines.count)"])
      ready?(entrances.found)
      await wait(for: entrances.channels)
    } catch {
      try? await loop.submit { state.value.stop() }.get()
      await store?.close()
      throw error
    }
    try await loop.submit { state.value.stop() }.get()
    await store?.close()
  }

  private func agent(of machine: ClientSettings.Machine) throws(ClientError) -> Endpoint {
    do { return try machine.agent.resolved() } catch { throw .unknownHost(machine.name, machine.agent, reason: describe(error)) }
  }

  private func check() throws(ClientError) {
    for (index, machine) in settings.machines.enumerated() where settings.machines[..<index].contains(where: { $0.name == machine.name }) {
      throw .machineTwice(machine.name)
    }
    guard settings.socks != nil || settings.httpConnect != nil || !settings.forwards.isEmpty else { throw .nothingToDo }
    for forward in settings.forwards where !settings.machines.contains(where: { $0.name.text == forward.host }) {
      throw .unknownMachine(forward.host, in: "--forward")
    }
  }

  /// Until the task is cancelled; the entrances close then.
  private func wait(for channels: [any Channel]) async {
    let (never, end) = AsyncStream.makeStream(of: Never.self)
    await withTaskCancellationHandler {
      for await _ in never {}
    } onCancel: {
      end.finish()
    }
    for channel in channels { try? await channel.close() }
  }

  private func listen(on loop: any EventLoop, state: NIOLoopBound<ClientState>) async throws -> (
    found: ClientEntrances, channels: [any Channel]
  ) {
    var found = ClientEntrances()
    var channels: [any Channel] = []
    func open(_ endpoint: Endpoint, _ prepare: @escaping @Sendable (any Channel) throws -> Void) async throws -> Endpoint {
      do {
        let address = try SocketAddress(endpoint)
        // On the loop's thread: the socket is of that thread's network.
        let channel = try await loop.flatSubmit {
          self.entrance(loop).childChannelInitializer { channel in
            channel.eventLoop.makeCompletedFuture { try prepare(channel) }
          }.bind(to: address)
        }.get()
        channels.append(channel)
        return channel.localAddress?.vocabulary ?? endpoint
      } catch {
        throw ClientError.cannotListen(endpoint, reason: describe(error))
      }
    }
    if let socks = settings.socks { found.socks = try await open(socks) { try state.value.takeSOCKS($0) } }
    if let connect = settings.httpConnect { found.httpConnect = try await open(connect) { try state.value.takeConnect($0) } }
    for forward in settings.forwards {
      for port in forward.ports {
        let target = forward.target(for: port)
        found.forwards.append(try await open(Endpoint(address: forward.address, port: port)) { state.value.takeForward($0, to: target) })
      }
    }
    return (found, channels)
  }

  private func entrance(_ loop: any EventLoop) -> ServerBootstrap {
    ServerBootstrap(group: loop)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .serverChannelOption(.backlog, value: 1_024)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelOption(.maxMessagesPerRead, value: 1)
      .childChannelOption(.recvAllocator, value: growingReads(upTo: 64 << 10))
      .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
  }
}

/// What a client holds, on its event loop.
private final class ClientState {
  private let settings: ClientSettings
  private let agents: [Endpoint]
  private let loop: any EventLoop
  private let logger: Logger
  private(set) var sessions: [MachineID: ClientSession] = [:]
  private var link: ControlLink?
  private var monitor: PathMonitor?
  private var addresses: AddressWatch?

  init(
    settings: ClientSettings, agents: [Endpoint], key: EndpointKey?, certificates: IdentityKeeper?, credentials: ControlCredentials,
    codec: SessionCodec, loop: any EventLoop, logger: Logger
  ) {
    self.settings = settings
    self.loop = loop
    self.logger = logger
    self.agents = agents
    for (machine, agent) in zip(settings.machines, agents) {
      sessions[machine.name] = ClientSession(
        machine: machine.name, agent: agent, key: key, certificates: certificates, carrierWindow: settings.carrierWindow,
        limits: settings.limits, codec: codec, loop: loop, logger: logger)
    }
    let identity = ClientIdentity.octets(settings)
    for session in sessions.values {
      session.identity = identity
      session.opensPatiently = settings.controller != nil
    }
    var known = AddressWatch.present()
    addresses = AddressWatch(loop: loop) { [unowned self] present in
      let gone = known.subtracting(present)
      for session in sessions.values { session.addressesChanged(gone: gone) }
      if !gone.isEmpty { self.link?.reconnect(from: nil) }
      known = present
    }
    guard let controller = settings.controller else { return }
    let description = NodeDescription(
      node: settings.node ?? NodeID(certificates?.current.name.name ?? "client"), role: .client, site: settings.site,
      machines: settings.machines.map(\.name))
    let link = ControlLink(
      loop: loop, controller: controller, description: description, credentials: credentials, sources: [], logger: logger,
      onOrder: { [unowned self] in self.follow($0) })
    self.link = link
    for session in sessions.values { session.report = { link.report($0) } }
    monitor = PathMonitor(loop: loop, logger: logger) { link.report($0) }
  }

  /// With a controller the link comes first: it may know that a machine has gone elsewhere meanwhile.
  func openSessions() -> EventLoopFuture<Void> {
    link?.start()
    addresses?.start()
    let opened = settings.machines.compactMap { sessions[$0.name]?.open() }
    let limit = loop.makePromise(of: Void.self)
    let span = settings.connectLimit
    let bound = NIOLoopBound(self, eventLoop: loop)
    let timeout = loop.scheduleTask(in: .nanoseconds(span.nanoseconds)) {
      guard let (machine, agent) = bound.value.firstWithoutSession else { return }
      let trouble = bound.value.sessions[machine]?.lastTrouble.map { ", and the last try said: \($0)" } ?? ""
      limit.fail(ClientError.agentUnreachable(machine, agent, reason: "no session within \(span.seconds) s\(trouble)"))
    }
    EventLoopFuture.andAllSucceed(opened, on: loop).cascade(to: limit)
    return limit.futureResult.always { _ in timeout.cancel() }
  }

  private var firstWithoutSession: (MachineID, Endpoint)? {
    zip(settings.machines, agents).first { sessions[$0.0.name]?.isOpen != true }.map { ($0.0.name, $0.1) }
  }

  func stop() {
    addresses?.stop()
    monitor?.stop()
    link?.stop()
    for session in sessions.values { session.close() }
  }

  private func follow(_ order: NodeOrder) {
    switch order {
    case .prepare(_, let machine, _, _), .freeze(_, let machine), .rollBack(_, let machine, _), .fence(_, let machine, _):
      sessions[machine]?.follow(order)
    case .go(_, let token): sessions[token.machine]?.follow(order)
    case .probe(let targets): monitor?.watch(targets)
    case .warm, .fill, .expect, .arrived, .withdrawn, .peers: break
    }
  }

  // MARK: Entrances

  func takeSOCKS(_ channel: any Channel) throws {
    try channel.pipeline.syncOperations.addHandler(
      SOCKS5Handler(SOCKS5Handshake(), logger: logger) { [unowned self] in self.open($0, for: $1) })
  }

  func takeConnect(_ channel: any Channel) throws {
    try channel.pipeline.syncOperations.addHandler(
      HTTPConnectHandler(HTTPConnectHandshake(), logger: logger) { [unowned self] in self.open($0, for: $1) })
  }

  func takeForward(_ channel: any Channel, to target: FlowTarget) {
    // Automatic reading would let octets pass before the relay is there.
    channel.setOption(.autoRead, value: false).assumeIsolated().whenComplete { _ in
      self.sessions[MachineID(target.host)]?.open(target, for: channel)
    }
  }

  /// The machine that a host means: its name, one of its addresses, or, where there is only one machine, a loopback address: what a service in the
  /// machine calls itself when it is reached over the agent (FTP's answer to PASV).
  private func session(for host: String) -> ClientSession? {
    if let session = sessions[MachineID(host)] ?? sessions[MachineID(host.lowercased())] { return session }
    guard let address = IPAddress(host) else { return host.lowercased() == "localhost" ? onlySession : nil }
    if address.isLoopback { return onlySession }
    return sessions.values.first { $0.isAt(address) }
  }

  private var onlySession: ClientSession? { sessions.count == 1 ? sessions.values.first : nil }

  private func open(_ target: FlowTarget, for client: any WaitingClient) {
    guard let session = session(for: target.host) else {
      logger.warning(
        "flow refused: no machine is named \(target.host); known are \(sessions.keys.sorted().map(\.text).joined(separator: ", "))")
      return client.refuse(.unknownHost)
    }
    session.open(target, for: client)
  }
}
