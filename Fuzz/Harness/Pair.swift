import NIOCore
import SCTP
import Vocabulary

/// Two ends and what is under way between them; a script decides what arrives, when, and in which state.
struct Pair: Sendable {
  enum Side { case a, z }

  let isDatagram: Bool
  var a: Subject
  var z: Subject
  var now = Instant(nanoseconds: 1_000_000_000)
  /// Every packet as it was sent, while `isTraced`.
  var trace: [(side: Side, packet: ByteBuffer)] = []
  var isTraced = false
  /// Packets under way, oldest first. On TCP each carrier keeps its order.
  private(set) var toA: [Flight] = []
  private(set) var toZ: [Flight] = []
  /// Packets were changed on the way and given a checksum that fits: anything may come of it, but no crash.
  private(set) var isForged = false
  private var closedAtA: Set<CarrierID> = []
  private var closedAtZ: Set<CarrierID> = []
  /// Connections that the network has forgotten without telling anybody.
  private var forgotten: Set<CarrierID> = []
  private(set) var lastCarrier: UInt64 = 1

  struct Flight {
    var packet: ByteBuffer
    var carrier: CarrierID?
    var route: DatagramRoute?
  }

  init(isDatagram: Bool, isInterleaved: Bool = false, seed: UInt64) {
    self.isDatagram = isDatagram
    if isDatagram {
      a = Subject.endpoint(seed: seed, isListening: false, isInterleaved: isInterleaved)
      z = Subject.endpoint(seed: seed &+ 1, isListening: true, isInterleaved: isInterleaved)
      a.member = a.endpoint?.connect(Subject.route(), at: now)
    } else {
      a = Subject.dialling(seed: seed, isInterleaved: isInterleaved, at: now)
      z = Subject.listener(seed: seed &+ 1, isInterleaved: isInterleaved)
    }
  }

  func count(to side: Side) -> Int { side == .a ? toA.count : toZ.count }

  mutating func settle() {
    a.settle(at: now)
    z.settle(at: now)
    send(from: .a)
    send(from: .z)
    for id in a.closing { closedAtA.insert(id) }
    for id in z.closing { closedAtZ.insert(id) }
    a.closing.removeAll()
    z.closing.removeAll()
  }

  private mutating func send(from side: Side) {
    let packets = side == .a ? a.outbox : z.outbox
    if side == .a { a.outbox.removeAll() } else { z.outbox.removeAll() }
    for (packet, carrier, route) in packets {
      if isTraced { trace.append((side, packet)) }
      if let carrier, forgotten.contains(carrier) || (side == .a ? closedAtA : closedAtZ).contains(carrier) { continue }
      if side == .a { toZ.append(Flight(packet: packet, carrier: carrier, route: route)) }
      if side == .z { toA.append(Flight(packet: packet, carrier: carrier, route: route)) }
    }
  }

  // MARK: The network

  /// The packet at this place arrives; on TCP the oldest of its carrier does instead.
  mutating func deliver(to side: Side, at place: Int, keeps: Bool = false) {
    let flights = side == .a ? toA : toZ
    guard !flights.isEmpty else { return }
    var index = place % flights.count
    if !isDatagram { index = flights.firstIndex { $0.carrier == flights[index].carrier } ?? index }
    let flight = flights[index]
    if !keeps || !isDatagram {
      if side == .a { toA.remove(at: index) } else { toZ.remove(at: index) }
    }
    if let carrier = flight.carrier {
      guard side == .a ? !closedAtA.contains(carrier) : !closedAtZ.contains(carrier) else { return }
      if side == .a { a.receive(flight.packet, on: carrier, at: now) } else { z.receive(flight.packet, on: carrier, at: now) }
    } else if let route = flight.route {
      // The receiver sees its own address, and the sender's.
      let seen = DatagramRoute(local: route.remote.address, remote: Endpoint(address: route.local, port: route.remote.port))
      if side == .a { a.receive(flight.packet, on: seen, at: now) } else { z.receive(flight.packet, on: seen, at: now) }
    }
    settle()
  }

  mutating func lose(to side: Side, at place: Int) {
    guard isDatagram, count(to: side) > 0 else { return }
    if side == .a { toA.remove(at: place % toA.count) } else { toZ.remove(at: place % toZ.count) }
  }

  /// Changes one octet of a packet, with a checksum that fits if `forges`.
  mutating func damage(to side: Side, at place: Int, octet: Int, mask: UInt8, forges: Bool) {
    guard count(to: side) > 0 else { return }
    let index = place % count(to: side)
    var packet = side == .a ? toA[index].packet : toZ[index].packet
    guard packet.readableBytes > 0 else { return }
    let position = packet.readerIndex + octet % packet.readableBytes
    packet.setInteger((packet.getInteger(at: position, as: UInt8.self) ?? 0) ^ mask, at: position)
    if forges {
      packet.writeChecksum()
      isForged = true
    }
    if side == .a { toA[index].packet = packet } else { toZ[index].packet = packet }
  }

  // MARK: Carriers (TCP)

  mutating func dial() -> CarrierID {
    lastCarrier += 1
    let id = CarrierID(lastCarrier)
    let now = now
    a.with { $0.carrierOpened(id, local: Subject.theirs, remote: Subject.ours, at: now) }
    return id
  }

  /// The connection breaks: what is under way on it is lost, and who has not closed it yet sees it close.
  mutating func cut(_ id: CarrierID, atA: Bool, atZ: Bool) {
    toA.removeAll { $0.carrier == id }
    toZ.removeAll { $0.carrier == id }
    let now = now
    if atA, closedAtA.insert(id).inserted { a.with { $0.carrierClosed(id, at: now) } }
    if atZ, closedAtZ.insert(id).inserted { z.with { $0.carrierClosed(id, at: now) } }
    if !atA, !atZ { forgotten.insert(id) }
  }

  // MARK: Peace

  /// Everything arrives, in order, and time passes from one deadline to the next.
  mutating func runQuietly(for span: TimeSpan, until isDone: (Pair) -> Bool = { _ in false }) {
    let end = now + span
    settle()
    var turns = 0
    while !isDone(self), turns < 20_000 {
      turns += 1
      if count(to: .a) > 0 {
        deliver(to: .a, at: 0)
      } else if count(to: .z) > 0 {
        deliver(to: .z, at: 0)
      } else {
        guard let next = [a.deadline, z.deadline].compactMap({ $0 }).min(), next <= end else { break }
        now = max(now, next)
        settle()
      }
    }
    if now < end { now = end }
    settle()
  }
}

extension Pair: CustomStringConvertible {
  var description: String {
    func describe(_ end: Subject, _ queue: [Flight]) -> String {
      let association = end.association ?? end.member.flatMap { end.endpoint?.association($0) }
      let state =
        association.map { "\($0.state), \($0.unacknowledged) octets unacknowledged, carrier \($0.activeCarrier as CarrierID?)" } ?? "none"
      return
        "\(state), failure \(end.failure.map { "\($0)" } ?? "none"), \(end.delivered.count) delivered, \(queue.count) packets on the way here"
    }
    return "at \(now): A \(describe(a, toA)); Z \(describe(z, toZ))"
  }
}

extension Pair {
  /// Everything has been acknowledged, and nothing is on its way.
  var isQuiet: Bool {
    func octets(_ end: Subject) -> Int {
      (end.association ?? end.member.flatMap { end.endpoint?.association($0) })?.unacknowledged ?? 0
    }
    return toA.isEmpty && toZ.isEmpty && octets(a) == 0 && octets(z) == 0
  }
}
