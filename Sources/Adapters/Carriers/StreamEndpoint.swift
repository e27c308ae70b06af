import Authentication
import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

/// SCTP over TCP without flows: one association for each connection, dialled or accepted. For trials, as `SCTPEndpoint` is for UDP; sessions, which
/// outlive their connections, have `SessionDriver`.
package final class StreamEndpoint: MessageTransport {
  /// Connections at once; each has buffers of some 200 KB at most beside what its association holds.
  package static let maximumConnections = 1_024

  private final class Member {
    let carrier: Carrier
    let local: IPAddress
    let remote: Endpoint
    var association: SessionAssociation?
    var timer: (at: Instant, task: Scheduled<Void>)?
    var isDriving = false

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
  private var members: [AssociationID: Member] = [:]
  private var lastID: UInt64 = 0
  private var server: (any Channel)?

  package init(configuration: AssociationConfiguration, loop: any EventLoop) {
    self.configuration = configuration
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
      .childChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { _ = try bound.value.add(channel) } }
      .bind(host: "\(address.address)", port: Int(address.port))
      .flatMapThrowing { channel in
        guard let local = channel.localAddress?.vocabulary else { throw ChannelError.operationUnsupported }
        bound.value.server = channel
        return local
      }
  }

  package func connect(to remote: Endpoint) -> EventLoopFuture<AssociationID> {
    let bound = NIOLoopBound(self, eventLoop: loop)
    return ClientBootstrap(group: loop)
      .channelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
      .connect(host: "\(remote.address)", port: Int(remote.port))
      .flatMapThrowing { channel in
        let endpoint = bound.value
        let id = try endpoint.add(channel)
        guard let member = endpoint.members[id] else { throw ChannelError.ioOnClosedChannel }
        member.association = SessionAssociation(
          connecting: endpoint.configuration, authenticator: CryptoAuthenticator(), random: SystemRandomNumberGenerator(),
          on: member.carrier.id, local: member.local, remote: member.remote.address, at: SessionDriver.now())
        endpoint.drive(id)
        return id
      }
  }

  package func association(_ id: AssociationID) -> SessionAssociation? { members[id]?.association }

  package func send(
    _ payload: ByteBuffer, stream: StreamID, protocolIdentifier: UInt32, isUnordered: Bool, reliability: Reliability, endOfWrite: Bool,
    on id: AssociationID
  ) -> Bool {
    let isTaken =
      members[id]?.association?.send(
        payload, stream: stream, protocolIdentifier: protocolIdentifier, isUnordered: isUnordered, endOfWrite: endOfWrite,
        reliability: reliability) ?? false
    drive(id)
    return isTaken
  }

  package func tell(_ id: AssociationID, _ body: (inout SessionAssociation, Instant) -> Void) {
    if let member = members[id], member.association != nil { body(&member.association!, SessionDriver.now()) }
    drive(id)
  }

  package func close() {
    server?.close(promise: nil)
    for member in members.values { member.carrier.closeAfterFlush("the program ends") }
  }
}

// MARK: The drive

extension StreamEndpoint {
  private func add(_ channel: any Channel) throws -> AssociationID {
    guard members.count < Self.maximumConnections, let local = channel.localAddress?.vocabulary,
      let remote = channel.remoteAddress?.vocabulary
    else { throw ChannelError.ioOnClosedChannel }
    lastID += 1
    let id = AssociationID(value: lastID)
    let carrier = Carrier(
      id: CarrierID(1),
      events: Carrier.Events(
        packet: { [weak self] in self?.receive($1, of: id) },
        readComplete: { [weak self] _ in self?.drive(id) },
        writability: { [weak self] in
          self?.members[id]?.association?.carrierWritable($0.id, $1)
          self?.drive(id)
        },
        closed: { [weak self] _, reason in self?.closed(id, reason) }))
    members[id] = Member(carrier: carrier, local: local.address, remote: remote)
    try channel.pipeline.syncOperations.addHandler(carrier)
    return id
  }

  private func receive(_ packet: ByteBuffer, of id: AssociationID) {
    guard let member = members[id] else { return }
    if member.association != nil {
      member.association?.receive(packet, on: member.carrier.id, at: SessionDriver.now())
      return drive(id)
    }
    switch listener.receive(
      packet, on: member.carrier.id, local: member.local, remote: member.remote.address, at: SessionDriver.now())
    {
    case .reply(let answer):
      member.carrier.write(answer)
      member.carrier.flush()
    case .accept(let association):
      member.association = association
      onAccepted(id, "\(member.remote)")
      drive(id)
    case .refuse(let answer, let reason):
      if let answer { member.carrier.write(answer) }
      member.carrier.closeAfterFlush(reason)
      onTrouble("\(member.remote): \(reason)")
    case .existing: member.carrier.close("an association of another connection")
    case .ignore(let reason): onTrouble("\(member.remote): \(reason)")
    }
  }

  private func drive(_ id: AssociationID) {
    guard let member = members[id], !member.isDriving else { return }
    member.isDriving = true
    while let effect = member.association?.nextEffect(at: SessionDriver.now()) {
      switch effect {
      case .transmit(let packet, let carrier):
        member.carrier.write(packet)
        if !member.carrier.isWritable { member.association?.carrierWritable(carrier, false) }
      case .closed, .failed:
        member.carrier.closeAfterFlush("the association has ended")
        onEvent(id, effect)
      case .closeCarrier(_, let reason): member.carrier.closeAfterFlush(reason)
      default: onEvent(id, effect)
      }
    }
    member.isDriving = false
    member.carrier.flush()
    schedule(id, member)
  }

  private func schedule(_ id: AssociationID, _ member: Member) {
    guard let next = member.association?.deadline else {
      member.timer?.task.cancel()
      member.timer = nil
      return
    }
    // An early bell costs less than a new one for each packet.
    if let timer = member.timer, timer.at <= next, timer.at > SessionDriver.now() { return }
    member.timer?.task.cancel()
    let bound = NIOLoopBound(self, eventLoop: loop)
    let task = loop.scheduleTask(deadline: .uptimeNanoseconds(UInt64(max(0, next.nanoseconds)))) { () -> Void in
      guard let member = bound.value.members[id] else { return }
      member.timer = nil
      member.association?.handleDeadline(at: SessionDriver.now())
      bound.value.drive(id)
    }
    member.timer = (next, task)
  }

  /// An association of a trial does not outlive its connection.
  private func closed(_ id: AssociationID, _ reason: String) {
    guard let member = members.removeValue(forKey: id) else { return }
    member.timer?.task.cancel()
    guard let association = member.association, association.state != .closed else { return }
    onEvent(id, .failed(.aborted("the connection to \(member.remote) is gone: \(reason)")))
  }
}
