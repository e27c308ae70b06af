import NIOCore
import SCTP
import Simulation
import Vocabulary

typealias TestEndpoint = DatagramEndpoint

/// How badly a network treats datagrams: probabilities from 0 to 1.
struct Faults {
  var loss = 0.0
  var duplication = 0.0
  var corruption = 0.0
  var reordering = 0.0
  /// What a reordered packet is late by, at most.
  var lateness = TimeSpan.milliseconds(40 as Int64)
}

/// Endpoints A and Z on datagrams, the ways between them, faults from a seed, and a clock that the test moves.
struct DatagramDuo {
  enum Side { case a, z }

  static let a1 = IPAddress("10.0.1.2")!
  static let a2 = IPAddress("10.0.2.2")!
  static let z3 = IPAddress("10.1.0.3")!
  static let z4 = IPAddress("10.2.0.4")!
  static let port: UInt16 = 9_899

  static func route(_ local: IPAddress, _ remote: IPAddress, port: UInt16 = port) -> DatagramRoute {
    DatagramRoute(local: local, remote: Endpoint(address: remote, port: port))
  }

  var network = VirtualNetwork<(to: Side, route: DatagramRoute, packet: ByteBuffer)>(startingAt: Instant(nanoseconds: 1_000_000_000))
  var a: TestEndpoint
  var z: TestEndpoint
  var associationOfA = AssociationID?.none
  var associationOfZ = AssociationID?.none
  var effectsOfA: [Effect] = []
  var effectsOfZ: [Effect] = []
  var refusals: [String] = []
  var trace: [(from: Side, at: Instant, route: DatagramRoute, packet: ByteBuffer)] = []
  var faults = Faults()
  /// Addresses of Z that nothing reaches.
  var dead: Set<IPAddress> = []
  /// Octets of an SCTP packet that the network carries whole; of larger ones it drops probes, and cuts all others up.
  var linkMTU = Int.max
  /// It drops all that are larger.
  var cutsNothing = false
  /// Looks at a packet before it is sent; nil loses it.
  var tamper: (Side, ByteBuffer) -> ByteBuffer? = { $1 }
  private var random: SeededGenerator
  private let toA: VirtualNetwork<(to: Side, route: DatagramRoute, packet: ByteBuffer)>.PipeID
  private let toZ: VirtualNetwork<(to: Side, route: DatagramRoute, packet: ByteBuffer)>.PipeID

  static func configuration(addresses: [IPAddress] = [], interleaving: Bool = false, scheduler: StreamScheduler = .firstCome)
    -> AssociationConfiguration
  {
    var configuration = AssociationConfiguration(endpointKey: Array("the same key on both sides".utf8))
    configuration.localAddresses = addresses
    configuration.features.isRequired = false
    configuration.features.interleaving = interleaving
    configuration.scheduler = scheduler
    return configuration
  }

  init(
    seed: UInt64 = 1, delay: TimeSpan = .milliseconds(20 as Int64), rate: BitRate = .megabitsPerSecond(100), mtu: Int = 1_252,
    a configurationOfA: AssociationConfiguration = configuration(), z configurationOfZ: AssociationConfiguration = configuration(),
    isListeningA: Bool = false
  ) {
    random = SeededGenerator(seed: seed &+ 0x5eed)
    a = TestEndpoint(
      configuration: configurationOfA, authenticator: TestAuthenticator(), cookieSecret: Array(0..<32), mtu: mtu, isListening: isListeningA,
      random: SeededGenerator(seed: seed &* 2))
    z = TestEndpoint(
      configuration: configurationOfZ, authenticator: TestAuthenticator(), cookieSecret: Array(32..<64), mtu: mtu, isListening: true,
      random: SeededGenerator(seed: seed &* 2 &+ 1))
    toA = network.makePipe(delay: delay, rate: rate)
    toZ = network.makePipe(delay: delay, rate: rate)
  }

  mutating func connect() { associationOfA = a.connect(Self.route(Self.a1, Self.z3), at: network.now) }

  static func established(
    seed: UInt64 = 1, delay: TimeSpan = .milliseconds(20 as Int64), rate: BitRate = .megabitsPerSecond(100), mtu: Int = 1_252,
    a configurationOfA: AssociationConfiguration = configuration(), z configurationOfZ: AssociationConfiguration = configuration()
  ) -> DatagramDuo {
    var duo = DatagramDuo(seed: seed, delay: delay, rate: rate, mtu: mtu, a: configurationOfA, z: configurationOfZ)
    duo.connect()
    duo.run(for: .seconds(1.0))
    precondition(duo.stateOfA == .established && duo.stateOfZ == .established)
    return duo
  }

  var stateOfA: TestAssociation.State? { associationOfA.flatMap { a.association($0)?.state } }
  var stateOfZ: TestAssociation.State? { associationOfZ.flatMap { z.association($0)?.state } }
  var statisticsOfA: AssociationStatistics { associationOfA.flatMap { a.association($0)?.statistics } ?? AssociationStatistics() }
  var statisticsOfZ: AssociationStatistics { associationOfZ.flatMap { z.association($0)?.statistics } ?? AssociationStatistics() }

  @discardableResult
  mutating func send(
    _ side: Side, _ text: ByteBuffer, stream: UInt16 = 0, isUnordered: Bool = false, endOfWrite: Bool = false,
    reliability: Reliability = .full
  ) -> Bool {
    let body: (inout TestAssociation) -> Bool = {
      $0.send(
        text, stream: StreamID(stream), protocolIdentifier: 7, isUnordered: isUnordered, endOfWrite: endOfWrite, reliability: reliability)
    }
    switch side {
    case .a: return associationOfA.flatMap { a.with($0, body) } ?? false
    case .z: return associationOfZ.flatMap { z.with($0, body) } ?? false
    }
  }

  mutating func shutdown(_ side: Side) {
    let now = network.now
    if side == .a, let id = associationOfA { a.with(id) { $0.shutdown(at: now) } }
    if side == .z, let id = associationOfZ { z.with(id) { $0.shutdown(at: now) } }
  }

  // MARK: Running

  mutating func pump() {
    var hasWorked: Bool
    repeat {
      hasWorked = false
      while let effect = a.nextEffect(at: network.now) {
        hasWorked = true
        carryOut(effect, of: .a)
      }
      while let effect = z.nextEffect(at: network.now) {
        hasWorked = true
        carryOut(effect, of: .z)
      }
    } while hasWorked
  }

  private mutating func carryOut(_ effect: DatagramEffect, of side: Side) {
    switch effect {
    case .transmit(let packet, let route): carry(packet, route, from: side)
    case .accepted(let id, _): if side == .a { associationOfA = id } else { associationOfZ = id }
    case .event(_, let effect): if side == .a { effectsOfA.append(effect) } else { effectsOfZ.append(effect) }
    case .refused(_, let reason): refusals.append(reason)
    }
  }

  private mutating func carry(_ packet: ByteBuffer, _ route: DatagramRoute, from side: Side) {
    trace.append((side, network.now, route, packet))
    guard var packet = tamper(side, packet), !dead.contains(route.local), !dead.contains(route.remote.address) else { return }
    if packet.readableBytes > linkMTU, cutsNothing || TestEndpoint.isProbe(packet) { return }
    func happens(_ probability: Double) -> Bool { probability > 0 && Double.random(in: 0..<1, using: &random) < probability }
    if happens(faults.loss) { return }
    if happens(faults.corruption) {
      let at = packet.readerIndex + Int.random(in: 0..<packet.readableBytes, using: &random)
      packet.setInteger((packet.getInteger(at: at, as: UInt8.self) ?? 0) ^ UInt8.random(in: 1...255, using: &random), at: at)
    }
    // What the receiver sees: its own address, and the sender's.
    let seen = DatagramRoute(local: route.remote.address, remote: Endpoint(address: route.local, port: Self.port))
    let to = side == .a ? Side.z : .a
    let pipe = side == .a ? toZ : toA
    for _ in 0..<(happens(faults.duplication) ? 2 : 1) {
      let late =
        happens(faults.reordering) ? TimeSpan.nanoseconds(Int64.random(in: 0...faults.lateness.nanoseconds, using: &random)) : .zero
      network.send((to, seen, packet), octets: packet.readableBytes + 28, on: pipe, lateness: late)
    }
  }

  mutating func run(for span: TimeSpan) {
    let end = network.now + span
    pump()
    while true {
      let deadline = [a.deadline, z.deadline].compactMap { $0 }.min().map { min($0, end) } ?? end
      if let delivery = network.next(notAfter: deadline) {
        switch delivery.payload.to {
        case .a: a.receive(delivery.payload.packet, on: delivery.payload.route, at: network.now)
        case .z: z.receive(delivery.payload.packet, on: delivery.payload.route, at: network.now)
        }
      } else {
        a.handleDeadline(at: network.now)
        z.handleDeadline(at: network.now)
      }
      pump()
      let next = [a.deadline, z.deadline].compactMap { $0 }.min()
      if network.now >= end, next.map({ $0 > network.now }) ?? true { return }
    }
  }

  /// Runs in steps until `isDone` or the limit; true if it is done.
  mutating func run(atMost limit: TimeSpan, until isDone: (DatagramDuo) -> Bool) -> Bool {
    let end = network.now + limit
    while network.now < end {
      if isDone(self) { return true }
      run(for: .milliseconds(100 as Int64))
    }
    return isDone(self)
  }
}
