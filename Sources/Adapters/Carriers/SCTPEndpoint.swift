import Authentication
import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

/// SCTP over UDP without flows: one `DatagramEndpoint`, its sockets and its clock, on one event loop. For other stacks, trials and tests.
package final class SCTPEndpoint: MessageTransport {
  package let loop: any EventLoop
  /// Everything that associations say, but for packets. Called on the loop.
  package var onEvent: (AssociationID, Effect) -> Void = { _, _ in }
  package var onAccepted: (AssociationID, String) -> Void = { _, _ in }
  /// A handshake that was turned away, or a socket that complains, in words.
  package var onTrouble: (String) -> Void = { _ in }

  private var engine: DatagramEndpoint
  private let mtu: Int
  private var sockets: [IPAddress: DatagramCarrier] = [:]
  private var unflushed: Set<IPAddress> = []
  private lazy var timer = DeadlineTimer(loop: loop) { [weak self] in self?.ring() }
  private var isDriving = false
  private var isClosed = false
  /// Of our first socket.
  private var port: UInt16 = 0
  /// Further addresses of the peer, which it may not have named itself; they are asked with HEARTBEAT once an association stands.
  package var furtherRemotes: [Endpoint] = []

  package init(configuration: AssociationConfiguration, mtu: Int, isListening: Bool, loop: any EventLoop) {
    self.loop = loop
    self.mtu = mtu
    engine = DatagramEndpoint(
      configuration: configuration, authenticator: CryptoAuthenticator(), cookieSecret: EndpointKey.randomOctets(32), mtu: mtu,
      isListening: isListening, random: SystemRandomNumberGenerator())
    engine.opensPaths = false
  }

  package var associations: [AssociationID] { engine.associations }
  package func association(_ id: AssociationID) -> SessionAssociation? { engine.association(id) }
  package func routes(of id: AssociationID) -> [DatagramRoute] { engine.routes(of: id) }

  /// A socket for one of our addresses. The value is where it is bound.
  package func bind(_ address: Endpoint) -> EventLoopFuture<Endpoint> {
    let bound = NIOLoopBound(self, eventLoop: loop)
    let events = DatagramCarrier.Events(
      packet: { [weak self] in self?.engine.receive($1, on: $0, at: SessionDriver.now()) },
      readComplete: { [weak self] in self?.drive() },
      writability: { [weak self] in
        self?.engine.writable($0)
        self?.drive()
      },
      failed: { [weak self] in self?.onTrouble($0) })
    return DatagramCarrier.bind(
      address, mtu: mtu, probesMTU: engine.configuration.features.pathMTUDiscovery, loop: loop, events: events
    ).map { carrier in
      bound.value.sockets[carrier.value.local.address] = carrier.value
      if bound.value.port == 0 { bound.value.port = carrier.value.local.port }
      return carrier.value.local
    }
  }

  package func connect(from local: IPAddress, to remote: Endpoint) -> AssociationID {
    let id = engine.connect(DatagramRoute(local: local, remote: remote), at: SessionDriver.now())
    drive()
    return id
  }

  /// At the port of our first socket: a peer looks for all our addresses behind one UDP port.
  package func open(_ address: IPAddress) -> EventLoopFuture<Void> {
    if sockets[address] != nil { return loop.makeSucceededVoidFuture() }
    return bind(Endpoint(address: address, port: port)).map { _ in }
  }

  package func move(_ id: AssociationID, from local: IPAddress?, to remote: Endpoint?) -> EventLoopFuture<Void> {
    guard let first = engine.routes(of: id).first, let local else {
      return loop.makeFailedFuture(SCTPTrialError(description: "say which of our addresses to move to"))
    }
    let bound = NIOLoopBound(self, eventLoop: loop)
    let target = remote.map { loop.makeSucceededFuture($0) } ?? way(from: local, for: id).map { $0 ?? first.remote }
    return open(local).and(target).map { bound.value.move(id, from: local, to: $0.1) }
  }

  /// The peer's address that the kernel's routes reach from `local`; nil if none.
  private func way(from local: IPAddress, for id: AssociationID) -> EventLoopFuture<Endpoint?> {
    guard let first = engine.routes(of: id).first, let addresses = engine.association(id)?.peerAddresses else {
      return loop.makeSucceededFuture(nil)
    }
    let remotes = addresses.filter { $0.isVersion6 == local.isVersion6 }.map { Endpoint(address: $0, port: first.remote.port) }
    let sources = remotes.map { DatagramCarrier.source(toward: $0, loop: loop).map { Optional($0) }.flatMapErrorThrowing { _ in nil } }
    return EventLoopFuture.whenAllSucceed(sources, on: loop).map { sources in zip(remotes, sources).first { $0.1 == local }?.0 }
  }

  package func ways(of id: AssociationID) -> [String] { engine.routes(of: id).map(\.description) }

  package func addPath(from local: IPAddress, to remote: Endpoint, of id: AssociationID) {
    engine.addPath(DatagramRoute(local: local, remote: remote), to: id, at: SessionDriver.now())
    drive()
  }

  /// Our end goes to `local`, which has a socket: the peer is told, and all else stops until it has answered.
  package func move(_ id: AssociationID, from local: IPAddress, to remote: Endpoint) {
    engine.move(id, to: DatagramRoute(local: local, remote: remote), at: SessionDriver.now())
    drive()
  }

  /// False: the send buffer is full; `.sendSpace` will come.
  package func send(
    _ payload: ByteBuffer, stream: StreamID, protocolIdentifier: UInt32, isUnordered: Bool, reliability: Reliability, endOfWrite: Bool,
    on id: AssociationID
  ) -> Bool {
    let isTaken =
      engine.with(id) {
        $0.send(
          payload, stream: stream, protocolIdentifier: protocolIdentifier, isUnordered: isUnordered, endOfWrite: endOfWrite,
          reliability: reliability)
      } ?? false
    drive()
    return isTaken
  }

  package func tell(_ id: AssociationID, _ body: (inout SessionAssociation, Instant) -> Void) {
    engine.with(id) { body(&$0, SessionDriver.now()) }
    drive()
  }

  package func close() {
    isClosed = true
    timer.set(nil)
    for socket in sockets.values { socket.close() }
    sockets.removeAll()
  }
}

// MARK: The drive

extension SCTPEndpoint {
  /// Carries out what the engine wants until it wants nothing more, then sets the clock. An owner that sends from a callback is heard in the same round.
  private func drive() {
    guard !isDriving, !isClosed else { return }
    isDriving = true
    while !isClosed, let effect = engine.nextEffect(at: SessionDriver.now()) {
      switch effect {
      case .transmit(let packet, let route):
        guard let socket = sockets[route.local] else { continue }
        socket.write(packet, to: route.remote)
        unflushed.insert(route.local)
        // Beyond the watermark the engine packs no more DATA until the socket takes it again.
        if !socket.isWritable { engine.writable(false) }
      case .accepted(let id, let remote): onAccepted(id, "\(remote)")
      case .event(let id, let event):
        openPaths(of: id, after: event)
        onEvent(id, event)
      case .refused(let remote, let reason): onTrouble("\(remote): \(reason)")
      }
    }
    isDriving = false
    for address in unflushed { sockets[address]?.flush() }
    unflushed.removeAll(keepingCapacity: true)
    timer.set(isClosed ? nil : engine.deadline)
  }

  private func ring() {
    engine.handleDeadline(at: SessionDriver.now())
    drive()
  }

  /// To each address that the peer has named there is a path, from the address of ours that the kernel's routes lead there from; if that one has no socket (on the loopback, for
  /// one), or the peer does not know it, from where the association began.
  private func openPaths(of id: AssociationID, after event: Effect) {
    switch event {
    case .established, .restarted, .peerAnnounced: break
    default: return
    }
    let routes = engine.routes(of: id)
    guard let first = routes.first, let association = engine.association(id) else { return }
    let known = association.localAddresses
    let named = association.peerAddresses.map { Endpoint(address: $0, port: first.remote.port) }
    for remote in furtherRemotes + named where !routes.contains(where: { $0.remote.address == remote.address }) {
      let bound = NIOLoopBound(self, eventLoop: loop)
      DatagramCarrier.source(toward: remote, loop: loop).whenComplete { result in
        let endpoint = bound.value
        switch result {
        case .success(let local):
          let isOurs = endpoint.sockets[local] != nil && known.contains(local)
          guard !endpoint.isClosed, isOurs || local.isVersion6 == first.local.isVersion6 else { return }
          endpoint.addPath(from: isOurs ? local : first.local, to: remote, of: id)
        case .failure(let error): endpoint.onTrouble("no way to the peer's address \(remote.address): \(describe(error))")
        }
      }
    }
  }
}
