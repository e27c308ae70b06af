import DequeModule
import HeapModule
import NIOCore
import Vocabulary

/// The way of one datagram: our address, and the peer's address and UDP port (RFC 6951).
package struct DatagramRoute: Hashable, Sendable, CustomStringConvertible {
  package var local: IPAddress
  package var remote: Endpoint

  package init(local: IPAddress, remote: Endpoint) {
    self.local = local
    self.remote = remote
  }

  package var description: String { "\(local) - \(remote)" }
}

/// One association of a datagram endpoint; a name is never used twice.
package struct AssociationID: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let value: UInt64
  package init(value: UInt64) { self.value = value }
  package static func < (a: AssociationID, b: AssociationID) -> Bool { a.value < b.value }
  package var description: String { "\(value)" }
}

package enum DatagramEffect: Sendable {
  case transmit(ByteBuffer, DatagramRoute)
  /// A peer has set up an association.
  case accepted(AssociationID, from: Endpoint)
  /// Whatever an association says, but for `.transmit`. After `.closed` or `.failed` its name means nothing.
  case event(AssociationID, Effect)
  /// A packet or a handshake was turned away.
  case refused(Endpoint, reason: String)
}

/// One SCTP port on datagrams, with all its associations: leads each packet to its association by tag, or answers what belongs to none
/// (RFC 9260 sections 8.4 and 8.5). Pure, as `Association` is: its owner has the socket and the clock.
package struct DatagramEndpoint: Sendable {
  /// Answers to packets that belong to no association wait here until the owner takes them; more are not worth it.
  package static var maximumAnswers: Int { 256 }
  /// Associations at once; an idle one is some 10 KB: 65,536 are 640 MB. Whoever comes then is told so (Out of Resource, RFC 9260 section 3.3.10.4).
  package var maximumAssociations = 65_536

  /// What is asked of an association for every packet, kept beside it: an association has a hundred fields, and a look at one of them would copy all.
  private struct Member: Sendable {
    /// In the order of the carriers' names.
    var routes: [(carrier: CarrierID, route: DatagramRoute)]
    var lastCarrier: UInt64 = 1
    var tag: UInt32
    var peerPort: UInt16
    /// As of the last time that the association had nothing more to do.
    var deadline: Instant?
    /// The earliest of its alarms: not after its deadline.
    var alarm: Instant?
  }

  /// An association is looked after at this time. A deadline that moves away leaves its alarm where it is, so a busy association sets few.
  private struct Alarm: Comparable, Sendable {
    var at: Instant
    var id: AssociationID

    static func < (a: Alarm, b: Alarm) -> Bool { a.at == b.at ? a.id < b.id : a.at < b.at }
  }

  /// An association is looked up by this when a packet's tag says nothing. The UDP port is part of it, since two clients behind one address translator
  /// may have the same SCTP port.
  private struct Peer: Hashable, Sendable {
    var remote: Endpoint
    var port: UInt16
  }

  package let configuration: AssociationConfiguration
  package private(set) var packetsDropped = 0
  /// To each address that a peer names a path is opened, from the address that the association began at. False: the owner opens them, since it knows which of our addresses leads where.
  package var opensPaths = true
  private let authenticator: any Authenticator
  private let mtu: Int
  private var random: any RandomNumberGenerator & Sendable
  private var listener: Listener?
  private var members: [AssociationID: Member] = [:]
  /// The same keys as `members`; changed in place only.
  private var engines: [AssociationID: Association] = [:]
  private var byTag: [UInt32: AssociationID] = [:]
  private var byPeer: [Peer: AssociationID] = [:]
  private var lastID: UInt64 = 0
  /// Associations that may have something to do.
  private var busy: Deque<AssociationID> = []
  private var alarms = Heap<Alarm>()
  private var answers: Deque<DatagramEffect> = []

  /// - Parameters:
  ///   - mtu: octets of an SCTP packet: the link's, less the headers of IP and UDP.
  ///   - isListening: INITs are answered.
  package init(
    configuration: AssociationConfiguration, authenticator: any Authenticator, cookieSecret: [UInt8], mtu: Int, isListening: Bool,
    random: any RandomNumberGenerator & Sendable
  ) {
    var configuration = configuration
    configuration.cookieSecret = cookieSecret
    self.configuration = configuration
    self.authenticator = authenticator
    self.mtu = mtu
    var random = random
    if isListening {
      listener = Listener(
        configuration: configuration, authenticator: authenticator, cookieSecret: cookieSecret, random: SeededGenerator(seed: random.next())
      )
    }
    self.random = random
  }
}

// MARK: - Ask it

extension DatagramEndpoint {
  package var associations: [AssociationID] { members.keys.sorted() }

  /// Not after the first deadline of an association, once `nextEffect` has given everything out.
  package var deadline: Instant? { alarms.min?.at }

  package func association(_ id: AssociationID) -> Association? { engines[id] }
  package func routes(of id: AssociationID) -> [DatagramRoute] {
    (members[id]?.routes ?? []).map(\.route)
  }
}

extension DatagramEndpoint {
  /// A probe of the path's packet size (HEARTBEAT and PAD): the network must not cut it. Anything else it may.
  package static func isProbe(_ packet: ByteBuffer) -> Bool {
    // AUTH, if the peer wants it everywhere; HEARTBEAT; PAD. Asked of every packet that is sent, so without a look at the rest.
    var types: [UInt8] = []
    var at = packet.readerIndex + PacketHeader.length
    while types.count < 3, let type = packet.getInteger(at: at, as: UInt8.self), let length = packet.getInteger(at: at + 2, as: UInt16.self)
    {
      guard type == ChunkType.heartbeat.rawValue || type == ChunkType.authentication.rawValue || type == ChunkType.padding.rawValue else {
        return false
      }
      types.append(type)
      at += Int(length) + padding(Int(length))
    }
    return types.suffix(2) == [ChunkType.heartbeat.rawValue, ChunkType.padding.rawValue]
  }
}

// MARK: - Tell it

extension DatagramEndpoint {
  package mutating func connect(_ route: DatagramRoute, at now: Instant) -> AssociationID {
    let carrier = CarrierID(1)
    let association = Association(
      connecting: configuration, authenticator: authenticator, random: SeededGenerator(seed: random.next()), on: carrier,
      local: route.local, remote: route.remote.address, kind: .datagram(mtu: mtu), at: now)
    return add(association, route, peerPort: configuration.peerPort ?? configuration.port)
  }

  /// A further path: another address of the peer, or of ours. It is asked with HEARTBEAT before data goes there.
  package mutating func addPath(_ route: DatagramRoute, to id: AssociationID, at now: Instant) {
    guard let carrier = open(route, of: id) else { return }
    let mtu = mtu
    engines[id]?.carrierOpened(
      carrier, local: route.local, remote: route.remote.address, kind: .datagram(mtu: mtu), at: now)
    if let port = members[id]?.peerPort { byPeer[Peer(remote: route.remote, port: port)] = id }
    busy.append(id)
  }

  /// Our end has come to another address, or prefers another one: the peer is told (ASCONF Add-IP and Set-Primary), and nothing but that leaves until
  /// it has answered. Other paths of the association are closed.
  package mutating func move(_ id: AssociationID, to route: DatagramRoute, at now: Instant) {
    addPath(route, to: id, at: now)
    guard let carrier = members[id]?.routes.first(where: { $0.route == route })?.carrier else { return }
    engines[id]?.move(to: carrier, localAddress: route.local, peerAddress: route.remote.address, at: now)
    busy.append(id)
  }

  /// Whatever an association can be told or asked for: `send`, `shutdown`, `abort`.
  package mutating func with<Result>(_ id: AssociationID, _ body: (inout Association) -> Result) -> Result? {
    guard let index = engines.index(forKey: id) else { return nil }
    busy.append(id)
    return body(&engines.values[index])  // in place: a copy would be a copy of all its queues
  }

  package mutating func handleDeadline(at now: Instant) {
    var isDue: [AssociationID] = []
    while let alarm = alarms.min, alarm.at <= now {
      alarms.removeMin()
      guard members[alarm.id]?.alarm == alarm.at else { continue }  // an earlier one has taken its place
      members[alarm.id]?.alarm = nil
      guard let deadline = members[alarm.id]?.deadline else { continue }
      if deadline <= now { isDue.append(alarm.id) } else { setAlarm(alarm.id, at: deadline) }
    }
    for id in isDue {
      engines[id]?.handleDeadline(at: now)
      busy.append(id)
    }
  }

  /// The socket takes datagrams again, or does not.
  package mutating func writable(_ isWritable: Bool) {
    for id in associations {
      for (carrier, _) in members[id]?.routes ?? [] { engines[id]?.carrierWritable(carrier, isWritable) }
      if isWritable { busy.append(id) }
    }
  }

  package mutating func receive(_ datagram: ByteBuffer, on route: DatagramRoute, at now: Instant) {
    let packet: Packet
    do { packet = try Packet(datagram) } catch {
      packetsDropped += 1
      return
    }
    let first = packet.chunks[0].known
    let peer = Peer(remote: route.remote, port: packet.header.sourcePort)
    let isHandshake =
      first == .initiation || first == .cookieEcho
      || (first == .authentication && packet.chunks.count > 1 && packet.chunks[1].known == .cookieEcho)
    if first != .initiation, let id = byTag[packet.header.verificationTag] {
      return deliver(packet, to: id, route, at: now)
    }
    // INIT, a COOKIE ECHO of a restart, and ABORT or SHUTDOWN COMPLETE with our own tag for the peer (the T bit) are told by where they come from.
    if isHandshake || packet.chunks[0].flags & 1 == 1, let id = byPeer[peer], members[id] != nil {
      return deliver(packet, to: id, route, at: now)
    }
    guard isHandshake else { return answerOutOfTheBlue(packet, route) }
    guard listener != nil else {
      if let own = first == .initiation ? Initiation(packet.chunks[0].value)?.tag : nil, own != 0 {
        return answer(packet, route, .abort, tag: own, isReflected: false)
      }
      return answerOutOfTheBlue(packet, route)
    }
    listen(packet, route, at: now)
  }
}

// MARK: - Ask it for work

extension DatagramEndpoint {
  package mutating func nextEffect(at now: Instant) -> DatagramEffect? {
    if let answer = answers.popFirst() { return answer }
    while let id = busy.first {
      guard let effect = inspect(id, { $0.nextEffect(at: now) }) ?? nil else {
        busy.removeFirst()
        settle(id)
        continue
      }
      switch effect {
      case .transmit(let packet, let carrier):
        if let found = members[id]?.routes.first(where: { $0.carrier == carrier }) { return .transmit(packet, found.route) }
      case .closeCarrier(let carrier, _):
        if let index = members[id]?.routes.firstIndex(where: { $0.carrier == carrier }), let gone = members[id]?.routes.remove(at: index) {
          forget(gone.route, of: id)
        }
        return .event(id, effect)
      case .established, .restarted, .peerAnnounced:
        learnTag(of: id)
        if opensPaths { openAnnounced(id, at: now) }
        return .event(id, effect)
      default: return .event(id, effect)
      }
    }
    return nil
  }
}

// MARK: - Details

extension DatagramEndpoint {
  private mutating func add(_ association: Association, _ route: DatagramRoute, peerPort: UInt16) -> AssociationID {
    lastID += 1
    let id = AssociationID(value: lastID)
    members[id] = Member(routes: [(CarrierID(1), route)], tag: association.localVerificationTag, peerPort: peerPort)
    engines[id] = association
    byTag[association.localVerificationTag] = id
    byPeer[Peer(remote: route.remote, port: peerPort)] = id
    busy.append(id)
    return id
  }

  private mutating func open(_ route: DatagramRoute, of id: AssociationID) -> CarrierID? {
    guard let member = members[id], !member.routes.contains(where: { $0.route == route }),
      member.routes.count < configuration.maximumCarriers
    else {
      return nil
    }
    let carrier = CarrierID(member.lastCarrier + 1)
    members[id]?.lastCarrier += 1
    members[id]?.routes.append((carrier, route))
    return carrier
  }

  /// The addresses that the peer's INIT or INIT ACK named, behind the UDP port that is known, from the address that we use.
  private mutating func openAnnounced(_ id: AssociationID, at now: Instant) {
    guard let member = members[id], let first = member.routes.first?.route else { return }
    for address in inspect(id, { $0.peerAddresses }) ?? [] where !member.routes.contains(where: { $0.route.remote.address == address }) {
      // From the address that we use, or, to one of the other family, from our first one of that.
      let isOther = address.isVersion6 != first.local.isVersion6
      guard let local = isOther ? configuration.localAddresses.first(where: { $0.isVersion6 == address.isVersion6 }) : first.local else {
        continue
      }
      addPath(DatagramRoute(local: local, remote: Endpoint(address: address, port: first.remote.port)), to: id, at: now)
    }
  }

  private mutating func deliver(_ packet: Packet, to id: AssociationID, _ route: DatagramRoute, at now: Instant) {
    guard let carrier = carrier(for: packet, of: id, route, at: now) else {
      packetsDropped += 1
      return
    }
    _ = inspect(id) { $0.take(packet, on: carrier, at: now) }
    learnTag(of: id)
    if busy.last != id { busy.append(id) }
  }

  /// The carrier that a packet came on. Another UDP port of a known address is followed only when the tag is right (RFC 6951 section 5.4), and never by
  /// INIT; an unknown address only to be asked with HEARTBEAT, if the peer has named it or the packet is authenticated.
  private mutating func carrier(for packet: Packet, of id: AssociationID, _ route: DatagramRoute, at now: Instant) -> CarrierID? {
    guard let member = members[id] else { return nil }
    if let same = member.routes.first(where: { $0.route == route }) { return same.carrier }
    guard packet.header.verificationTag == member.tag else { return nil }
    if let index = member.routes.firstIndex(where: { $0.route.local == route.local && $0.route.remote.address == route.remote.address }) {
      forget(member.routes[index].route, of: id)
      members[id]?.routes[index].route = route
      byPeer[Peer(remote: route.remote, port: packet.header.sourcePort)] = id
      return member.routes[index].carrier
    }
    guard packet.chunks[0].known == .authentication || inspect(id, { $0.peerAddresses.contains(route.remote.address) }) == true else {
      return nil
    }
    addPath(route, to: id, at: now)
    return members[id]?.routes.first { $0.route == route }?.carrier
  }

  private mutating func inspect<Result>(_ id: AssociationID, _ body: (inout Association) -> Result) -> Result? {
    guard let index = engines.index(forKey: id) else { return nil }
    return body(&engines.values[index])
  }

  /// An association has nothing more to do for now: its deadline stands, or it is over.
  private mutating func settle(_ id: AssociationID) {
    guard let (isClosed, deadline) = inspect(id, { ($0.state == .closed, $0.deadline) }) else { return }
    if isClosed { return remove(id) }
    members[id]?.deadline = deadline
    if let deadline { setAlarm(id, at: deadline) }
  }

  private mutating func setAlarm(_ id: AssociationID, at deadline: Instant) {
    if let alarm = members[id]?.alarm, alarm <= deadline { return }
    members[id]?.alarm = deadline
    alarms.insert(Alarm(at: deadline, id: id))
    // Alarms that others have replaced go when their time comes, or when they are most of all.
    guard alarms.count > 64 + 4 * members.count else { return }
    alarms = Heap(members.compactMap { id, member in member.alarm.map { Alarm(at: $0, id: id) } })
  }

  /// A restart has given the association another tag.
  private mutating func learnTag(of id: AssociationID) {
    guard let old = members[id]?.tag, let tag = inspect(id, { $0.localVerificationTag }), tag != old else { return }
    byTag[old] = nil
    members[id]?.tag = tag
    byTag[tag] = id
  }

  private mutating func forget(_ route: DatagramRoute, of id: AssociationID) {
    guard let port = members[id]?.peerPort else { return }
    if byPeer[Peer(remote: route.remote, port: port)] == id { byPeer[Peer(remote: route.remote, port: port)] = nil }
  }

  private mutating func remove(_ id: AssociationID) {
    guard let member = members[id] else { return }
    for (_, route) in member.routes { forget(route, of: id) }
    byTag[member.tag] = nil
    members[id] = nil
    engines[id] = nil
  }

  private mutating func listen(_ packet: Packet, _ route: DatagramRoute, at now: Instant) {
    let mtu = mtu
    let action = listener?.take(
      packet, on: CarrierID(1), local: route.local, remote: route.remote.address, kind: .datagram(mtu: mtu), at: now)
    switch action {
    case .reply(let bytes): push(.transmit(bytes, route))
    case .accept(let association):
      guard members.count < maximumAssociations else {
        var builder = PacketBuilder(association.header)
        builder.append(.abort) { $0.writeCause(.outOfResource) { _ in } }
        push(.transmit(builder.finish(), route))
        return push(.refused(route.remote, reason: "\(maximumAssociations) associations are open, which is the limit"))
      }
      let id = add(association, route, peerPort: packet.header.sourcePort)
      push(.accepted(id, from: route.remote))
    case .refuse(let bytes, let reason):
      if let bytes { push(.transmit(bytes, route)) }
      push(.refused(route.remote, reason: reason))
    case .ignore(let reason):
      packetsDropped += 1
      push(.refused(route.remote, reason: reason))
    case .existing, nil: answerOutOfTheBlue(packet, route)
    }
  }

  private mutating func push(_ effect: DatagramEffect) {
    guard answers.count < Self.maximumAnswers else {
      packetsDropped += 1
      return
    }
    answers.append(effect)
  }

  /// A packet of no association (RFC 9260 section 8.4).
  private mutating func answerOutOfTheBlue(_ packet: Packet, _ route: DatagramRoute) {
    let types = packet.chunks.map(\.known)
    if types.contains(.abort) || types.contains(.shutdownComplete) || types.contains(.cookieAck) || types.contains(.error) {
      packetsDropped += 1
      return
    }
    let tag = packet.header.verificationTag
    answer(packet, route, types.contains(.shutdownAck) ? .shutdownComplete : .abort, tag: tag, isReflected: true)
  }

  private mutating func answer(_ packet: Packet, _ route: DatagramRoute, _ type: ChunkType, tag: UInt32, isReflected: Bool) {
    var builder = PacketBuilder(
      PacketHeader(sourcePort: packet.header.destinationPort, destinationPort: packet.header.sourcePort, verificationTag: tag))
    builder.append(type, flags: isReflected ? 1 : 0)
    push(.transmit(builder.finish(), route))
  }
}
