import NIOCore
import SCTP
import Simulation
import Vocabulary

/// A keyed mixing of octets that stands in for HMAC-SHA-256: not secure, but another code for every other key or text.
struct TestAuthenticator: Authenticator {
  func authenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] {
    var state: UInt64 = 0xcbf2_9ce4_8422_2325
    func mix(_ octet: UInt8) { state = (state ^ UInt64(octet)) &* 0x100_0000_01b3 }
    for octet in key { mix(octet) }
    mix(UInt8(truncatingIfNeeded: key.count))
    for part in parts { for octet in part.readableBytesView { mix(octet) } }
    var generator = SeededGenerator(seed: state)
    return (0..<4).flatMap { _ in withUnsafeBytes(of: generator.next()) { Array($0) } }
  }

  func legacyAuthenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] {
    Array(authenticationCode(key: key + [1], parts).prefix(20))
  }
}

typealias TestAssociation = Association

/// Peers A (active) and Z (passive), the carriers between them, and a clock that the test moves.
struct Duo {
  static let a1 = IPAddress("10.0.1.2")!
  static let z3 = IPAddress("10.1.0.3")!
  static let z4 = IPAddress("10.2.0.4")!

  enum Side { case a, z }

  struct Line {
    var id: CarrierID
    var toA: VirtualNetwork<ByteBuffer>.PipeID
    var toZ: VirtualNetwork<ByteBuffer>.PipeID
    var address: IPAddress
    var isOpenAtA = true
    var isOpenAtZ = true
  }

  var network = VirtualNetwork<ByteBuffer>(startingAt: Instant(nanoseconds: 1_000_000_000))
  var listener: Listener
  var a: TestAssociation
  var z: TestAssociation?
  var lines: [CarrierID: Line] = [:]
  var effectsOfA: [Effect] = []
  var effectsOfZ: [Effect] = []
  var refusals: [String] = []
  var ignored: [String] = []
  /// Every packet that was sent, by whom, newest last.
  var trace: [(from: Side, on: CarrierID, packet: ByteBuffer)] = []
  var lastCarrier: UInt64 = 0
  /// Looks at, or changes, a packet before it is delivered; nil loses it.
  var tamper: (Side, ByteBuffer) -> ByteBuffer? = { $1 }

  static func configuration(key: String = "the same key on both sides") -> AssociationConfiguration {
    AssociationConfiguration(endpointKey: Array(key.utf8))
  }

  init(
    seed: UInt64 = 1, delay: TimeSpan = .milliseconds(5 as Int64), rate: BitRate = .megabitsPerSecond(100),
    a configurationOfA: AssociationConfiguration = Duo.configuration(), z configurationOfZ: AssociationConfiguration = Duo.configuration()
  ) {
    listener = Listener(
      configuration: configurationOfZ, authenticator: TestAuthenticator(), cookieSecret: Array(0..<32),
      random: SeededGenerator(seed: seed &* 2 &+ 1))
    let first = CarrierID(1)
    a = TestAssociation(
      connecting: configurationOfA, authenticator: TestAuthenticator(), random: SeededGenerator(seed: seed &* 2), on: first, local: Duo.a1,
      remote: Duo.z3, at: network.now)
    lastCarrier = 1
    lines[first] = Line(
      id: first, toA: network.makePipe(delay: delay, rate: rate), toZ: network.makePipe(delay: delay, rate: rate), address: Duo.z3)
  }

  /// Both ends, established.
  static func established(
    seed: UInt64 = 1, delay: TimeSpan = .milliseconds(5 as Int64), rate: BitRate = .megabitsPerSecond(100),
    a configurationOfA: AssociationConfiguration = Duo.configuration(), z configurationOfZ: AssociationConfiguration = Duo.configuration()
  ) -> Duo {
    var duo = Duo(seed: seed, delay: delay, rate: rate, a: configurationOfA, z: configurationOfZ)
    duo.run(for: .seconds(1.0))
    precondition(duo.a.state == .established && duo.z?.state == .established)
    return duo
  }

  // MARK: Carriers

  /// Another connection, known to A; Z hears of it with its first packet.
  mutating func dial(_ address: IPAddress = Duo.z4, delay: TimeSpan = .milliseconds(5 as Int64), rate: BitRate = .megabitsPerSecond(100))
    -> CarrierID
  {
    lastCarrier += 1
    let id = CarrierID(lastCarrier)
    lines[id] = Line(
      id: id, toA: network.makePipe(delay: delay, rate: rate), toZ: network.makePipe(delay: delay, rate: rate), address: address)
    a.carrierOpened(id, local: Duo.a1, remote: address, at: network.now)
    return id
  }

  mutating func move(to id: CarrierID) {
    guard let line = lines[id] else { return }
    a.move(to: id, localAddress: Duo.a1, peerAddress: line.address, at: network.now)
  }

  /// The connection breaks: what is under way is lost, and both ends see it close.
  mutating func cut(_ id: CarrierID) {
    guard let line = lines[id] else { return }
    network.cut(line.toA)
    network.cut(line.toZ)
    if line.isOpenAtA { a.carrierClosed(id, at: network.now) }
    if line.isOpenAtZ { z?.carrierClosed(id, at: network.now) }
    lines[id]?.isOpenAtA = false
    lines[id]?.isOpenAtZ = false
  }

  /// The network forgets the connection: nothing arrives any more, and nobody is told. What is under way is lost too.
  mutating func blackHole(_ id: CarrierID) {
    guard let line = lines[id] else { return }
    network.cut(line.toA)
    network.cut(line.toZ)
  }

  // MARK: Running

  /// Lets both ends do what they want now.
  mutating func pump() {
    var hasWorked: Bool
    repeat {
      hasWorked = false
      while let effect = a.nextEffect(at: network.now) {
        hasWorked = true
        carryOut(effect, of: .a)
      }
      while let effect = z?.nextEffect(at: network.now) {
        hasWorked = true
        carryOut(effect, of: .z)
      }
    } while hasWorked
  }

  private mutating func carryOut(_ effect: Effect, of side: Side) {
    switch effect {
    case .transmit(let packet, let id):
      trace.append((side, id, packet))
      guard let line = lines[id], side == .a ? line.isOpenAtA : line.isOpenAtZ else { return }
      if let packet = tamper(side, packet) { network.send(packet, octets: packet.readableBytes + 2, on: side == .a ? line.toZ : line.toA) }
    case .closeCarrier(let id, _):
      if side == .a { lines[id]?.isOpenAtA = false } else { lines[id]?.isOpenAtZ = false }
      if side == .a { effectsOfA.append(effect) } else { effectsOfZ.append(effect) }
    default: if side == .a { effectsOfA.append(effect) } else { effectsOfZ.append(effect) }
    }
  }

  /// Runs until nothing happens before the time is over.
  mutating func run(for span: TimeSpan) {
    let end = network.now + span
    pump()
    while true {
      let deadline = [a.deadline, z?.deadline].compactMap { $0 }.min().map { min($0, end) } ?? end
      if let delivery = network.next(notAfter: deadline) {
        deliver(delivery)
      } else {
        if let at = a.deadline, at <= network.now { a.handleDeadline(at: network.now) }
        if let at = z?.deadline, at <= network.now { z?.handleDeadline(at: network.now) }
      }
      pump()
      let next = [a.deadline, z?.deadline].compactMap { $0 }.min()
      if network.now >= end, next.map({ $0 > network.now }) ?? true { return }
    }
  }

  private mutating func deliver(_ delivery: VirtualNetwork<ByteBuffer>.Delivery) {
    guard let line = lines.values.first(where: { $0.toA == delivery.pipe || $0.toZ == delivery.pipe }) else { return }
    if line.toA == delivery.pipe {
      if line.isOpenAtA { a.receive(delivery.payload, on: line.id, at: network.now) }
    } else if line.isOpenAtZ {
      receiveAtZ(delivery.payload, on: line)
    }
  }

  mutating func receiveAtZ(_ packet: ByteBuffer, on line: Line) {
    if let z, z.activeCarrier == line.id || knownToZ.contains(line.id) {
      self.z?.receive(packet, on: line.id, at: network.now)
      return
    }
    switch listener.receive(packet, on: line.id, local: line.address, remote: Duo.a1, at: network.now) {
    case .reply(let answer), .refuse(.some(let answer), _):
      trace.append((.z, line.id, answer))
      if let answer = tamper(.z, answer) { network.send(answer, octets: answer.readableBytes + 2, on: line.toA) }
    case .accept(let association):
      z = association
      knownToZ.insert(line.id)
    case .existing(let tag):
      guard z?.localVerificationTag == tag else { return }
      knownToZ.insert(line.id)
      z?.carrierOpened(line.id, local: line.address, remote: Duo.a1, at: network.now)
      z?.receive(packet, on: line.id, at: network.now)
    case .refuse(nil, let reason): refusals.append(reason)
    case .ignore(let reason): ignored.append(reason)
    }
  }
  var knownToZ: Set<CarrierID> = []

  // MARK: What came

  static func messages(_ effects: [Effect]) -> [(stream: UInt16, text: ByteBuffer)] {
    effects.compactMap { effect in
      if case .deliver(let stream, _, let payload) = effect { return (stream.value, payload) }
      return nil
    }
  }

  static func moves(_ effects: [Effect]) -> [CarrierID] {
    effects.compactMap { effect in
      if case .moved(let id) = effect { return id }
      return nil
    }
  }

  static func failure(_ effects: [Effect]) -> AssociationError? {
    effects.compactMap { effect in
      if case .failed(let error) = effect { return error }
      return nil
    }.first
  }
}
