import Authentication
import NIOCore
import NIOPosix
import SCTP
import Sealing
import Sockets
import Vocabulary

/// SCTP over TCP without flows: associations on connections, dialled or accepted; one may move from a connection to the next. For trials, as `SCTPEndpoint` is for UDP; sessions have
/// `SessionDriver`.
package final class StreamEndpoint: MessageTransport {
  /// Connections at once; each has buffers of some 200 KB at most beside what its association holds.
  package static let maximumConnections = 1_024

  private final class Member {
    var association: SessionAssociation
    var timer: DeadlineTimer?
    var isDriving = false

    init(_ association: SessionAssociation) { self.association = association }
  }

  private final class Connection {
    let carrier: Carrier
    let local: IPAddress
    let remote: Endpoint
    /// Nil until its first packet has said whose it is, and after its association has done with it.
    var owner: AssociationID?

    init(carrier: Carrier, local: IPAddress, remote: Endpoint) {
      self.carrier = carrier
      self.local = local
      self.remote = remote
    }
  }

  package let loop: any EventLoop
  package var onEvent: (AssociationID, Effect) -> Void = { _, _ in }
  package var onAccepted: (AssociationID, String) -> Void = { _, _ in }
  package var onTrouble: (String) -> Void = { _ in }

  private let configuration: AssociationConfiguration
  private var listener: SessionListener
  private var connections: [CarrierID: Connection] = [:]
  private var members: [AssociationID: Member] = [:]
  private var byTag: [UInt32: AssociationID] = [:]
  private var lastID: UInt64 = 0
  private var lastCarrier: UInt64 = 0
  private var servers: [any Channel] = []
  private let secret: SessionSecret?

  /// - Parameter secret: both ends have it, and every carrier is sealed with it: for benchmarks, since carriers of one number share their keys. Nil: nothing is sealed.
  package init(configuration: AssociationConfiguration, secret: SessionSecret? = nil, loop: any EventLoop) {
    self.configuration = configuration
    self.secret = secret
    self.loop = loop
    listener = SessionListener(
      configuration: configuration, authenticator: CryptoAuthenticator(), cookieSecret: EndpointKey.randomOctets(32),
      random: SystemRandomNumberGenerator())
  }

  /// Accepts connections; the value is where.
  package func listen(_ address: Endpoint) -> EventLoopFuture<Endpoint> {
    let bound = NIOLoopBound(self, eventLoop: loop)
    return ServerBootstrap(group: loop)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
      .childChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { _ = try bound.value.add(channel, isDialled: false) } }
      .bind(host: "\(address.address)", port: Int(address.port))
      .flatMapThrowing { channel in
        guard let local = channel.localAddress?.vocabulary else { throw ChannelError.operationUnsupported }
        bound.value.servers.append(channel)
        return local
      }
  }

  /// A listener takes connections there too; a dialler needs no socket before it moves.
  package func open(_ address: IPAddress) -> EventLoopFuture<Void> {
    guard let port = servers.first?.localAddress?.port else { return loop.makeSucceededVoidFuture() }
    return listen(Endpoint(address: address, port: UInt16(port))).map { _ in }
  }

  package func connect(from local: IPAddress? = nil, to remote: Endpoint) -> EventLoopFuture<AssociationID> {
    let bound = NIOLoopBound(self, eventLoop: loop)
    return dial(from: local, to: remote).flatMapThrowing { id in
      let endpoint = bound.value
      guard let connection = endpoint.connections[id] else { throw ChannelError.ioOnClosedChannel }
      return endpoint.adopt(
        SessionAssociation(
          connecting: endpoint.configuration, authenticator: CryptoAuthenticator(), random: SystemRandomNumberGenerator(), on: id,
          local: connection.local, remote: connection.remote.address, at: SessionDriver.now()), connection)
    }
  }

  /// A new connection, and the association goes over to it: its first packet carries ASCONF and SACK.
  package func move(_ id: AssociationID, from local: IPAddress?, to remote: Endpoint?) -> EventLoopFuture<Void> {
    guard let member = members[id],
      let target = remote ?? member.association.activeCarrier.flatMap({ connections[$0]?.remote })
    else { return loop.makeFailedFuture(SCTPTrialError(description: "say where the peer is: it has no connection now")) }
    let bound = NIOLoopBound(self, eventLoop: loop)
    return dial(from: local, to: target).flatMapThrowing { carrier in
      let endpoint = bound.value
      guard let connection = endpoint.connections[carrier], let member = endpoint.members[id] else { throw ChannelError.ioOnClosedChannel }
      let now = SessionDriver.now()
      connection.owner = id
      member.association.carrierOpened(carrier, local: connection.local, remote: connection.remote.address, at: now)
      member.association.move(to: carrier, localAddress: connection.local, peerAddress: connection.remote.address, at: now)
      endpoint.drive(id)
    }
  }

  package func association(_ id: AssociationID) -> SessionAssociation? { members[id]?.association }

  package func ways(of id: AssociationID) -> [String] {
    connections.filter { $0.value.owner == id }.sorted { $0.key.value < $1.key.value }.map { "\($0.value.local) - \($0.value.remote)" }
  }

  package func send(
    _ payload: ByteBuffer, stream: StreamID, protocolIdentifier: UInt32, isUnordered: Bool, reliability: Reliability, endOfWrite: Bool,
    on id: AssociationID
  ) -> Bool {
    let isTaken =
      members[id]?.association.send(
        payload, stream: stream, protocolIdentifier: protocolIdentifier, isUnordered: isUnordered, endOfWrite: endOfWrite,
        reliability: reliability) ?? false
    drive(id)
    return isTaken
  }

  package func tell(_ id: AssociationID, _ body: (inout SessionAssociation, Instant) -> Void) {
    if let member = members[id] { body(&member.association, SessionDriver.now()) }
    drive(id)
  }

  package func close() {
    for server in servers { server.close(promise: nil) }
    for connection in connections.values { connection.carrier.closeAfterFlush("the program ends") }
  }
}

// MARK: The drive

extension StreamEndpoint {
  private func dial(from local: IPAddress?, to remote: Endpoint) -> EventLoopFuture<CarrierID> {
    let bound = NIOLoopBound(self, eventLoop: loop)
    return loop.makeCompletedFuture { try local.map { try SocketAddress(Endpoint(address: $0, port: 0)) } }
      .flatMap { [loop] source in
        let bootstrap = ClientBootstrap(group: loop).channelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
        return (source.map { bootstrap.bind(to: $0) } ?? bootstrap).connect(host: "\(remote.address)", port: Int(remote.port))
      }
      .flatMapThrowing { try bound.value.add($0, isDialled: true) }
  }

  private func add(_ channel: any Channel, isDialled: Bool) throws -> CarrierID {
    guard connections.count < Self.maximumConnections, let local = channel.localAddress?.vocabulary,
      let remote = channel.remoteAddress?.vocabulary
    else { throw ChannelError.ioOnClosedChannel }
    lastCarrier += 1
    let id = CarrierID(lastCarrier)
    let carrier = Carrier(
      id: id,
      events: Carrier.Events(
        packet: { [weak self] in self?.receive($1, on: $0.id) },
        readComplete: { [weak self] in self?.driveOwner(of: $0.id) { _, _ in } },
        writability: { [weak self] in
          let isWritable = $1
          self?.driveOwner(of: $0.id) { $0.carrierWritable($1, isWritable) }
        },
        closed: { [weak self] in self?.closed($0.id, $1) }))
    if let secret {
      carrier.seal(with: secret.sealer(carrier: 1, isDialled ? .toAgent : .toClient))
      carrier.expectSealed(by: secret.opener(carrier: 1, isDialled ? .toClient : .toAgent))
    }
    connections[id] = Connection(carrier: carrier, local: local.address, remote: remote)
    try channel.pipeline.syncOperations.addHandler(carrier)
    return id
  }

  private func adopt(_ association: SessionAssociation, _ connection: Connection) -> AssociationID {
    lastID += 1
    let id = AssociationID(value: lastID)
    let member = Member(association)
    member.timer = DeadlineTimer(loop: loop) { [weak self] in
      guard let self, let member = members[id] else { return }
      member.association.handleDeadline(at: SessionDriver.now())
      drive(id)
    }
    members[id] = member
    byTag[association.localVerificationTag] = id
    connection.owner = id
    drive(id)
    return id
  }

  private func driveOwner(of id: CarrierID, _ body: (inout SessionAssociation, CarrierID) -> Void) {
    guard let owner = connections[id]?.owner, let member = members[owner] else { return }
    body(&member.association, id)
    drive(owner)
  }

  private func receive(_ packet: ByteBuffer, on id: CarrierID) {
    guard let connection = connections[id] else { return }
    let now = SessionDriver.now()
    if connection.owner != nil { return driveOwner(of: id) { $0.receive(packet, on: $1, at: now) } }
    switch listener.receive(packet, on: id, local: connection.local, remote: connection.remote.address, at: now) {
    case .reply(let answer):
      connection.carrier.write(answer)
      connection.carrier.flush()
    case .accept(let association):
      // The owner hears of it before it hears anything from it.
      let next = AssociationID(value: lastID + 1)
      onAccepted(next, "\(connection.remote)")
      _ = adopt(association, connection)
    case .refuse(let answer, let reason):
      if let answer { connection.carrier.write(answer) }
      connection.carrier.closeAfterFlush(reason)
      onTrouble("\(connection.remote): \(reason)")
    case .existing(let tag):
      guard let owner = byTag[tag], members[owner] != nil else { return connection.carrier.close("an association that is not here") }
      connection.owner = owner
      driveOwner(of: id) {
        $0.carrierOpened($1, local: connection.local, remote: connection.remote.address, at: now)
        $0.receive(packet, on: $1, at: now)
      }
    case .ignore(let reason): onTrouble("\(connection.remote): \(reason)")
    }
  }

  private func drive(_ id: AssociationID) {
    guard let member = members[id], !member.isDriving else { return }
    member.isDriving = true
    var hasEnded = false
    while let effect = member.association.nextEffect(at: SessionDriver.now()) {
      switch effect {
      case .transmit(let packet, let carrier):
        guard let connection = connections[carrier] else { continue }
        connection.carrier.write(packet)
        if !connection.carrier.isWritable { member.association.carrierWritable(carrier, false) }
      case .closed, .failed:
        hasEnded = true
        onEvent(id, effect)
      case .closeCarrier(let carrier, let reason):
        connections[carrier]?.owner = nil
        connections[carrier]?.carrier.closeAfterFlush(reason)
        onEvent(id, effect)
      default: onEvent(id, effect)
      }
    }
    member.isDriving = false
    if hasEnded { remove(id) }  // first, so that its connections' ends are no news
    for connection in connections.values where connection.owner == id {
      connection.carrier.flush()
      if hasEnded { connection.carrier.closeAfterFlush("the association has ended") }
    }
    if !hasEnded { member.timer?.set(member.association.deadline) }
  }

  private func remove(_ id: AssociationID) {
    guard let member = members.removeValue(forKey: id) else { return }
    member.timer?.set(nil)
    byTag[member.association.localVerificationTag] = nil
  }

  /// An association that cannot move does not outlive its connection.
  private func closed(_ carrier: CarrierID, _ reason: String) {
    guard let connection = connections.removeValue(forKey: carrier), let id = connection.owner, let member = members[id] else { return }
    let mayMove = configuration.features.authentication && configuration.features.reconfiguration
    if mayMove, member.association.state == .established {
      onTrouble("the connection to \(connection.remote) is gone: \(reason)")
      return tell(id) { $0.carrierClosed(carrier, at: $1) }
    }
    remove(id)
    onEvent(id, .failed(.aborted("the connection to \(connection.remote) is gone: \(reason)")))
  }
}
