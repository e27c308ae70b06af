import NIOCore
import SCTP
import Vocabulary

/// Whatever takes packets: an association on TCP, a listener there, or a whole endpoint on datagrams.
struct Subject: Sendable {
  static let ours = IPAddress.v4(0x0a01_0001)
  static let theirs = IPAddress.v4(0x0a01_0002)
  static let mtu = 1_252

  var association: Association?
  var listener: Listener?
  var endpoint: DatagramEndpoint?
  /// Of the endpoint's associations the one that calls go to.
  var member: AssociationID?

  var delivered: [(stream: UInt16, payload: ByteBuffer)] = []
  var failure: AssociationError?
  var isClosed = false
  /// Packets for the other end, with the carrier (TCP) or the route (datagrams).
  var outbox: [(packet: ByteBuffer, carrier: CarrierID?, route: DatagramRoute?)] = []
  /// Carriers that the association wants closed.
  var closing: [CarrierID] = []

  static func configuration(isRequired: Bool = true, isInterleaved: Bool = false) -> AssociationConfiguration {
    var configuration = AssociationConfiguration(endpointKey: Array("key".utf8))
    configuration.receiveWindow = ByteCount(128 << 10)
    configuration.sendBuffer = ByteCount(256 << 10)
    configuration.features.isRequired = isRequired
    configuration.features.interleaving = isInterleaved
    configuration.features.pathMTUDiscovery = isInterleaved
    if isInterleaved { configuration.scheduler = .roundRobinPerPacket }
    return configuration
  }

  static func route(from local: IPAddress = ours, to remote: IPAddress = theirs, port: UInt16 = 9_899) -> DatagramRoute {
    DatagramRoute(local: local, remote: Endpoint(address: remote, port: port))
  }

  static func endpoint(seed: UInt64, isListening: Bool, isInterleaved: Bool = false) -> Subject {
    var subject = Subject()
    subject.endpoint = DatagramEndpoint(
      configuration: configuration(isRequired: false, isInterleaved: isInterleaved), authenticator: OpenAuthenticator(),
      cookieSecret: Array(0..<32), mtu: mtu,
      isListening: isListening, random: SeededGenerator(seed: seed))
    return subject
  }

  static func listener(seed: UInt64, isInterleaved: Bool = false) -> Subject {
    var subject = Subject()
    subject.listener = Listener(
      configuration: configuration(isInterleaved: isInterleaved), authenticator: OpenAuthenticator(), cookieSecret: Array(0..<32),
      random: SeededGenerator(seed: seed))
    return subject
  }

  static func dialling(seed: UInt64, isInterleaved: Bool = false, at now: Instant) -> Subject {
    var subject = Subject()
    subject.association = Association(
      connecting: configuration(isInterleaved: isInterleaved), authenticator: OpenAuthenticator(), random: SeededGenerator(seed: seed),
      on: CarrierID(1), local: ours,
      remote: theirs, at: now)
    return subject
  }

  // MARK: In

  mutating func receive(_ packet: ByteBuffer, on carrier: CarrierID, at now: Instant) {
    if association != nil, listener == nil || isKnown(carrier) {
      association?.receive(packet, on: carrier, at: now)
    } else if listener != nil {
      listen(packet, on: carrier, at: now)
    }
  }

  private var knownCarriers: Set<CarrierID> = []
  private func isKnown(_ carrier: CarrierID) -> Bool { knownCarriers.contains(carrier) }

  private mutating func listen(_ packet: ByteBuffer, on carrier: CarrierID, at now: Instant) {
    switch listener?.receive(packet, on: carrier, local: Self.ours, remote: Self.theirs, at: now) {
    case .reply(let answer), .refuse(.some(let answer), _): outbox.append((answer, carrier, nil))
    case .accept(let new):
      guard association == nil || isClosed else { return }
      association = new
      isClosed = false
      knownCarriers = [carrier]
    case .existing(let tag):
      guard let association, association.localVerificationTag == tag else { return }
      knownCarriers.insert(carrier)
      self.association?.carrierOpened(carrier, local: Self.ours, remote: Self.theirs, at: now)
      self.association?.receive(packet, on: carrier, at: now)
    case .refuse(nil, _), .ignore, nil: return
    }
  }

  mutating func receive(_ packet: ByteBuffer, on route: DatagramRoute, at now: Instant) { endpoint?.receive(packet, on: route, at: now) }

  /// Calls the association, whatever holds it.
  mutating func with(_ body: (inout Association) -> Void) {
    if endpoint != nil {
      if let member { _ = endpoint?.with(member, body) }
    } else if association != nil {
      body(&association!)  // an optional chain cannot be handed on as inout
    }
  }

  // MARK: Out

  private static var effectsOfOneTurn: Int { 20_000 }

  /// Takes out all that there is to do, and lets no deadline stand that has passed.
  mutating func settle(at now: Instant) {
    var turns = 0
    drain(at: now)
    while let deadline, deadline <= now {
      turns += 1
      demand(turns < 1_000, "a deadline that has passed comes again and again")
      association?.handleDeadline(at: now)
      endpoint?.handleDeadline(at: now)
      drain(at: now)
    }
    check()
  }

  var deadline: Instant? { endpoint != nil ? endpoint?.deadline : association?.deadline }

  private mutating func drain(at now: Instant) {
    var effects = 0
    while let effect = association?.nextEffect(at: now) {
      effects += 1
      demand(effects < Self.effectsOfOneTurn, "the association never stops")
      if case .transmit(let packet, let carrier) = effect { outbox.append((packet, carrier, nil)) } else { note(effect) }
    }
    while let effect = endpoint?.nextEffect(at: now) {
      effects += 1
      demand(effects < Self.effectsOfOneTurn, "the endpoint never stops")
      switch effect {
      case .transmit(let packet, let route): outbox.append((packet, nil, route))
      case .accepted(let id, _): member = id
      case .event(let id, let effect): if id == member { note(effect) }
      case .refused: break
      }
    }
  }

  private mutating func note(_ effect: Effect) {
    switch effect {
    case .deliver(let stream, _, let payload): delivered.append((stream.value, payload))
    case .closeCarrier(let id, _): closing.append(id)
    case .failed(let error):
      failure = error
      isClosed = true
    case .closed: isClosed = true
    default: break
    }
  }

  /// What must hold whatever came.
  private func check() {
    guard let association = endpoint == nil ? association : member.flatMap({ endpoint?.association($0) }) else { return }
    demand(association.unacknowledged >= 0, "fewer than no octets wait")
    demand(association.state != .closed || association.deadline == nil, "a closed association has a deadline")
    demand(association.peerAddresses.count <= 64, "addresses without a bound")
    demand((endpoint?.associations.count ?? 0) <= 4_096, "associations without a bound")
  }
}
