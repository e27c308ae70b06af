import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

@Suite("The handshake on datagrams")
struct DatagramHandshakeTests {
  static func established(_ effects: [Effect]) -> Int {
    effects.filter { if case .established = $0 { true } else { false } }.count
  }

  static func restarts(_ effects: [Effect]) -> Int {
    effects.filter { if case .restarted = $0 { true } else { false } }.count
  }

  @Test("survives the loss of any of its four packets", arguments: [1, 2, 3, 4])
  func loss(number: Int) {
    var duo = DatagramDuo()
    let count = Box(0)
    duo.tamper = { _, packet in
      count.value += 1
      return count.value == number ? nil : packet
    }
    duo.connect()
    duo.run(for: .seconds(5.0))
    #expect(duo.stateOfA == .established && duo.stateOfZ == .established)
    #expect(Self.established(duo.effectsOfA) == 1 && Self.established(duo.effectsOfZ) == 1)
    duo.send(.a, message(10))
    duo.run(for: .seconds(1.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("every packet may come twice")
  func duplicated() {
    var duo = DatagramDuo()
    duo.faults.duplication = 1
    duo.connect()
    duo.run(for: .seconds(5.0))
    #expect(Self.established(duo.effectsOfA) == 1 && Self.established(duo.effectsOfZ) == 1)
    #expect(duo.z.associations.count == 1)
  }

  @Test("both sides may begin at once: one association comes of it, with AUTH as with any", arguments: [0, 5, 19, 21, 39, 41, 59, 61])
  func simultaneous(milliseconds: Int) {
    var duo = DatagramDuo(isListeningA: true)
    duo.connect()
    duo.run(for: .milliseconds(Int64(milliseconds)))
    if duo.associationOfZ == nil {
      duo.associationOfZ = duo.z.connect(DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1), at: duo.network.now)
    }
    duo.run(for: .seconds(5.0))
    #expect(duo.stateOfA == .established && duo.stateOfZ == .established)
    #expect(duo.a.associations.count == 1 && duo.z.associations.count == 1)
    duo.send(.a, message(10))
    duo.send(.z, message(10))
    let now = duo.network.now
    duo.z.with(duo.associationOfZ!) { $0.announce(DatagramDuo.z4, at: now) }  // authenticated by the key that both must have
    duo.run(for: .seconds(1.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1 && Duo.messages(duo.effectsOfA).count == 1)
    #expect(duo.effectsOfA.contains { if case .peerAnnounced = $0 { true } else { false } })
  }

  @Test("a peer that has lost its memory restarts the association", arguments: 0..<20)
  func restart(seed: Int) {
    var duo = DatagramDuo.established(seed: UInt64(seed))
    for number in 0..<20 { duo.send(.a, message(5_000, UInt8(number)), stream: UInt16(number % 3)) }
    // Nothing may be under way, or the peer without memory answers it with ABORT, and that is the end of the old one.
    duo.run(for: .seconds(5.0))
    duo.faults = Faults(loss: 0.1, duplication: 0.1, reordering: 0.2)
    let again = DatagramDuo(seed: UInt64(seed) + 1_000)
    duo.a = again.a
    duo.effectsOfA = []
    duo.effectsOfZ = []
    duo.connect()
    let isDone = duo.run(atMost: .seconds(100.0)) { $0.stateOfA == .established && Self.restarts($0.effectsOfZ) == 1 }
    #expect(isDone)
    duo.effectsOfZ = []
    duo.send(.a, message(3_000, 77))
    duo.send(.z, message(3_000, 78))
    let hasCome = duo.run(atMost: .seconds(100.0)) { Duo.messages($0.effectsOfZ).count == 1 && Duo.messages($0.effectsOfA).count == 1 }
    #expect(hasCome)
    #expect(Duo.messages(duo.effectsOfZ).first?.text == message(3_000, 77))
    #expect(duo.z.associations.count == 1)
  }

  @Test("a stale cookie is reported, and the handshake begins again")
  func stale() {
    var configuration = DatagramDuo.configuration()
    configuration.cookieLifetime = .milliseconds(30 as Int64)
    var duo = DatagramDuo(z: configuration)
    let count = Box(0)
    duo.connect()
    duo.tamper = { side, packet in
      if side == .a, chunkTypes(packet).contains(10) { count.value += 1 }
      return side == .a && chunkTypes(packet).contains(10) && count.value == 1 ? nil : packet
    }
    duo.run(for: .milliseconds(100 as Int64))
    duo.run(for: .seconds(1.0))
    #expect(duo.trace.contains { $0.from == .z && chunkTypes($0.packet) == [9] })
    #expect(duo.trace.filter { $0.from == .a && chunkTypes($0.packet) == [1] }.count >= 2)
  }

  @Test("without AUTH on one side the association does without it", arguments: [true, false])
  func withoutAuthentication(isAtA: Bool) {
    var without = DatagramDuo.configuration()
    without.features.authentication = false
    let with = DatagramDuo.configuration()
    var duo = DatagramDuo.established(a: isAtA ? without : with, z: isAtA ? with : without)
    duo.send(.a, message(100))
    duo.run(for: .seconds(1.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
    #expect(!duo.trace.contains { chunkTypes($0.packet).contains(15) })
  }

  @Test("a COOKIE ECHO of another endpoint key is answered with ABORT")
  func wrongKey() {
    var other = DatagramDuo.configuration()
    other.endpointKey = Array("a key of another installation".utf8)
    var duo = DatagramDuo(a: other)
    duo.connect()
    duo.run(for: .seconds(5.0))
    #expect(duo.z.associations.isEmpty)
    guard case .peerAborted? = Duo.failure(duo.effectsOfA) else {
      Issue.record("\(duo.effectsOfA)")
      return
    }
  }
}

@Suite("Packets of no association")
struct OutOfTheBlueTests {
  static func packet(_ type: UInt8, flags: UInt8 = 0, tag: UInt32, _ value: [UInt8] = []) -> ByteBuffer {
    var bytes = ByteBuffer(integer: UInt16(7_600))
    bytes.writeInteger(UInt16(7_600))
    bytes.writeInteger(tag)
    bytes.writeInteger(UInt32(0))
    bytes.writeInteger(type)
    bytes.writeInteger(flags)
    bytes.writeInteger(UInt16(4 + value.count))
    bytes.writeBytes(value)
    return rechecksummed(bytes)
  }

  static let stranger = DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a2, port: 5_555)

  @Test("get ABORT with their own tag, SHUTDOWN ACK gets SHUTDOWN COMPLETE, and what ends or answers gets nothing (RFC 9260 section 8.4)")
  func answers() {
    for (type, answer) in [(0, 6), (3, 6), (4, 6), (8, 14), (6, nil), (14, nil), (11, nil), (9, nil)] as [(UInt8, UInt8?)] {
      var duo = DatagramDuo.established()
      duo.trace.removeAll()
      duo.z.receive(Self.packet(type, tag: 0xfeed, Array(repeating: 0, count: 16)), on: Self.stranger, at: duo.network.now)
      duo.pump()
      #expect(duo.trace.map { chunkTypes($0.packet) } == (answer.map { [[$0]] } ?? []), "chunk type \(type)")
      guard let packet = duo.trace.first?.packet else { continue }
      #expect(packet.getInteger(at: packet.readerIndex + 4, as: UInt32.self) == 0xfeed)
      #expect(packet.getInteger(at: packet.readerIndex + 13, as: UInt8.self) == 1)
    }
  }

  @Test("a changed UDP port is followed once the tag is right, and not on an INIT (RFC 6951 section 5.4)")
  func port() {
    var duo = DatagramDuo.established()
    let id = duo.associationOfZ!
    let moved = DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1, port: 40_000)
    let tag = duo.z.association(id)!.localVerificationTag
    duo.z.receive(Self.packet(4, tag: tag ^ 1, [0, 1, 0, 8, 1, 2, 3, 4]), on: moved, at: duo.network.now)
    #expect(duo.z.routes(of: id).map(\.remote.port) == [DatagramDuo.port])
    let isINIT = duo.trace[0].packet
    duo.z.receive(isINIT, on: moved, at: duo.network.now)
    #expect(duo.z.routes(of: id).map(\.remote.port) == [DatagramDuo.port])
    duo.z.receive(Self.packet(4, tag: tag, [0, 1, 0, 8, 1, 2, 3, 4]), on: moved, at: duo.network.now)
    #expect(duo.z.routes(of: id).map(\.remote.port) == [40_000])
  }

  @Test("a flood of INITs leaves nothing behind")
  func flood() {
    var duo = DatagramDuo()
    duo.connect()
    duo.pump()
    let initiation = duo.trace[0].packet
    for number in 0..<5_000 {
      let from = DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1, port: UInt16(1_000 + number))
      duo.z.receive(initiation, on: from, at: duo.network.now)
      if number % 100 == 0 { duo.pump() }
    }
    #expect(duo.z.associations.isEmpty)
  }

  @Test("forged packets with a wrong tag end nothing", arguments: [6, 14, 7, 8, 9] as [UInt8])
  func forged(type: UInt8) {
    var duo = DatagramDuo.established()
    for flags in [0, 1] as [UInt8] {
      duo.z.receive(
        Self.packet(type, flags: flags, tag: 0xbad, [0, 0, 0, 0]), on: DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1),
        at: duo.network.now)
    }
    duo.run(for: .seconds(1.0))
    #expect(duo.stateOfA == .established && duo.stateOfZ == .established)
  }
}

@Suite("The end on datagrams")
struct DatagramEndTests {
  @Test("shutdown over a bad network delivers everything and closes both ends", arguments: 0..<40)
  func shutdown(seed: Int) {
    var duo = DatagramDuo.established(seed: UInt64(seed))
    duo.faults = Faults(loss: 0.1, duplication: 0.1, corruption: 0.02, reordering: 0.2)
    for number in 0..<20 { duo.send(.a, message(3_000, UInt8(number))) }
    if seed % 2 == 1 { for number in 0..<10 { duo.send(.z, message(3_000, UInt8(number))) } }
    duo.shutdown(.a)
    if seed % 4 == 3 { duo.shutdown(.z) }
    let isDone = duo.run(atMost: .seconds(600.0)) { $0.a.associations.isEmpty && $0.z.associations.isEmpty }
    #expect(isDone, "seed \(seed)")
    #expect(Duo.failure(duo.effectsOfA) == nil, "seed \(seed)")
    #expect(Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == (0..<20).map { message(3_000, UInt8($0)) }, "seed \(seed)")
    #expect(Duo.messages(duo.effectsOfA).count == (seed % 2 == 1 ? 10 : 0), "seed \(seed)")
  }

  @Test("an INIT in SHUTDOWN-ACK-SENT gets SHUTDOWN ACK again (RFC 9260 section 9.2)")
  func initiationAtTheEnd() {
    var duo = DatagramDuo.established()
    duo.tamper = { side, packet in side == .z && chunkTypes(packet) == [8] ? nil : packet }
    duo.shutdown(.a)
    duo.run(for: .milliseconds(200 as Int64))
    #expect(duo.stateOfZ == .shutdownAckSent)
    duo.tamper = { $1 }
    duo.a = DatagramDuo(seed: 99).a
    duo.connect()
    duo.run(for: .seconds(20.0))
    #expect(duo.stateOfA == .established)
    #expect(duo.z.associations.count == 1 && duo.stateOfZ == .established)
  }
}
