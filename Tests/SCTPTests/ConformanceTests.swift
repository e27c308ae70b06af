import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

/// Error causes in the ERROR and ABORT chunks of a packet.
func errorCauses(_ packets: [ByteBuffer]) -> [UInt16] {
  packets.flatMap(rawChunks).filter { $0.type == 6 || $0.type == 9 }.compactMap { $0.integer(at: 0, as: UInt16.self) }
}

/// INIT or INIT ACK with other parameters, or another fixed part.
func changedInitiation(
  _ packet: ByteBuffer, parameters: (inout ByteBuffer) -> Void = { _ in }, fixed: (inout ByteBuffer) -> Void = { _ in }
) -> ByteBuffer {
  let chunk = rawChunks(packet)[0]
  var head = chunk.value.getSlice(at: chunk.value.readerIndex, length: 16)!
  fixed(&head)
  return rawPacket(
    like: packet,
    [
      RawChunk(chunk.type) {
        $0.writeImmutableBuffer(head)
        parameters(&$0)
        $0.writeImmutableBuffer(chunk.value.getSlice(at: chunk.value.readerIndex + 16, length: chunk.value.readableBytes - 16)!)
      }
    ])
}

@Suite("What RFC 9260 says of the handshake's details")
struct InitiationTests {
  @Test(
    "parameters that say nothing to us do not hide those behind them: address types, unknown ones, cookie preservative, adaptation, ECN")
  func knownParameters() {
    var duo = DatagramDuo()
    duo.tamper = { side, packet in
      guard chunkTypes(packet) == [1] || chunkTypes(packet) == [2] else { return packet }
      return changedInitiation(packet) { bytes in
        bytes.writeRawParameter(12) { $0.writeInteger(UInt16(5)) }
        bytes.writeRawParameter(8) { $0.writeRawParameter(0xc0fe) { _ in } }
        bytes.writeRawParameter(9) { $0.writeInteger(UInt32(1_000)) }
        bytes.writeRawParameter(0x8000) { _ in }
        bytes.writeRawParameter(0xc006) { $0.writeInteger(UInt32(7)) }
      }
    }
    duo.connect()
    duo.run(for: .seconds(2.0))
    #expect(duo.stateOfA == .established && duo.stateOfZ == .established)
    let z = duo.z.association(duo.associationOfZ!)
    #expect(z?.usesStreamReset == true && z?.usesPartialReliability == true)
    // Authentication too: an announcement is taken.
    let now = duo.network.now
    duo.z.with(duo.associationOfZ!) { $0.announce(DatagramDuo.z4, at: now) }
    duo.run(for: .seconds(2.0))
    #expect(duo.effectsOfZ.contains { if case .announced = $0 { true } else { false } })
    #expect(errorCauses(duo.trace.map(\.packet)).isEmpty)
  }

  @Test(
    "an unknown parameter stops the reading, or not, and is reported, or not, as its upper bits say",
    arguments: [0x3fff, 0x7fff, 0xbfff, 0xffff])
  func unknownParameters(type: Int) {
    var duo = DatagramDuo()
    duo.tamper = { side, packet in
      guard chunkTypes(packet) == [1] else { return packet }
      return changedInitiation(packet) { $0.writeRawParameter(UInt16(type)) { $0.writeInteger(UInt32(1)) } }
    }
    duo.connect()
    duo.run(for: .seconds(2.0))
    #expect(duo.stateOfA == .established)
    let answer = rawChunks(duo.trace.first { chunkTypes($0.packet) == [2] }!.packet)[0]
    let names =
      answer.value.readableBytesView.count >= 8
      && answer.value.readableBytesView.indices.contains {
        answer.value.getInteger(at: $0, as: UInt32.self) == 0x0008_000c
          && answer.value.getInteger(at: $0 + 4, as: UInt16.self) == UInt16(type)
      }
    #expect(names == (type & 0x4000 != 0))
    #expect(duo.z.association(duo.associationOfZ!)?.usesStreamReset == (type & 0x8000 != 0), "what stands behind it was read, or not")
  }

  @Test("an INIT without streams, or with a host name, is answered with ABORT and the cause", arguments: [(true, 7), (false, 5)])
  func impossible(hasNoStreams: Bool, cause: UInt16) {
    var duo = DatagramDuo()
    duo.tamper = { side, packet in
      guard chunkTypes(packet) == [1] else { return packet }
      if hasNoStreams { return changedInitiation(packet, fixed: { $0.setInteger(UInt16(0), at: $0.readerIndex + 8) }) }
      return changedInitiation(packet) { $0.writeRawParameter(11) { $0.writeString("a.example\0") } }
    }
    duo.connect()
    duo.run(for: .seconds(1.0))
    #expect(errorCauses(duo.trace.filter { $0.from == .z }.map(\.packet)).first == cause)
    #expect(duo.z.associations.isEmpty)
    guard case .peerAborted? = Duo.failure(duo.effectsOfA) else {
      Issue.record("\(duo.effectsOfA)")
      return
    }
  }

  @Test("an INIT ACK without a cookie ends the handshake with ABORT and the cause")
  func noCookie() {
    var duo = DatagramDuo()
    duo.tamper = { side, packet in
      guard chunkTypes(packet) == [2] else { return packet }
      let chunk = rawChunks(packet)[0]
      return rawPacket(
        like: packet, [RawChunk(2) { $0.writeImmutableBuffer(chunk.value.getSlice(at: chunk.value.readerIndex, length: 16)!) }])
    }
    var plain = DatagramDuo.configuration()
    plain.features.authentication = false
    duo = DatagramDuo(a: plain, z: plain)
    duo.tamper = { side, packet in
      guard chunkTypes(packet) == [2] else { return packet }
      let chunk = rawChunks(packet)[0]
      return rawPacket(
        like: packet, [RawChunk(2) { $0.writeImmutableBuffer(chunk.value.getSlice(at: chunk.value.readerIndex, length: 16)!) }])
    }
    duo.connect()
    duo.run(for: .seconds(1.0))
    #expect(errorCauses(duo.trace.filter { $0.from == .a }.map(\.packet)) == [2])
    #expect(Duo.failure(duo.effectsOfA) != nil)
  }

  @Test("unknown parameters of an INIT ACK are named in an ERROR once the handshake is done")
  func unknownInAnswer() {
    var duo = DatagramDuo()
    duo.tamper = { side, packet in
      guard chunkTypes(packet) == [2] else { return packet }
      return changedInitiation(packet) { $0.writeRawParameter(0xc0ff) { $0.writeInteger(UInt32(1)) } }
    }
    duo.connect()
    duo.run(for: .seconds(1.0))
    #expect(duo.stateOfA == .established)
    #expect(errorCauses(duo.trace.filter { $0.from == .a }.map(\.packet)) == [8])
    #expect(duo.effectsOfZ.contains { if case .peerReported = $0 { true } else { false } })
  }

  @Test("addresses of both families become paths, and either carries the data alone")
  func mixed() {
    let (a6, z6) = (IPAddress("2001:db8::2")!, IPAddress("2001:db8::3")!)
    let a = DatagramDuo.configuration(addresses: [DatagramDuo.a1, a6])
    let z = DatagramDuo.configuration(addresses: [DatagramDuo.z3, z6])
    var duo = DatagramDuo.established(a: a, z: z)
    duo.run(for: .seconds(5.0))
    #expect(Set(duo.a.routes(of: duo.associationOfA!)) == [DatagramDuo.route(DatagramDuo.a1, DatagramDuo.z3), DatagramDuo.route(a6, z6)])
    #expect(duo.a.association(duo.associationOfA!)?.status(of: CarrierID(2)) == .active)
    duo.dead = [DatagramDuo.z3]
    for number in 0..<20 { duo.send(.a, message(1_000, UInt8(number))) }
    let isDone = duo.run(atMost: .seconds(200.0)) { Duo.messages($0.effectsOfZ).count == 20 }
    #expect(isDone)
    // And announced later.
    let now = duo.network.now
    duo.dead = []
    let second6 = IPAddress("2001:db8::4")!
    duo.z.with(duo.associationOfZ!) { $0.announce(second6, at: now) }
    duo.run(for: .seconds(60.0))
    #expect(duo.a.routes(of: duo.associationOfA!).contains(DatagramDuo.route(a6, second6)))
  }
}

@Suite("What RFC 9260 says of chunks")
struct ChunkRuleTests {
  /// A packet of A that Z gets, and the packets that Z answers.
  static func answers(_ chunks: [RawChunk]) -> (duo: DatagramDuo, packets: [ByteBuffer]) {
    var duo = DatagramDuo.established()
    let like = duo.trace.last { $0.from == .a && chunkTypes($0.packet) != [1] }!.packet
    duo.trace.removeAll()
    duo.z.receive(rawPacket(like: like, chunks), on: DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1), at: duo.network.now)
    duo.run(for: .milliseconds(300 as Int64))
    return (duo, duo.trace.filter { $0.from == .z }.map(\.packet))
  }

  static let heartbeat = RawChunk(4) { $0.writeRawParameter(1) { $0.writeInteger(UInt64(77)) } }

  @Test(
    "an unknown chunk stops the reading, or not, and is reported, or not, as its upper bits say",
    arguments: [0x3e, 0x7e, 0xbe, 0xfe] as [UInt8])
  func unknown(type: UInt8) {
    let (duo, packets) = Self.answers([RawChunk(type) { $0.writeInteger(UInt32(1)) }, Self.heartbeat])
    #expect(errorCauses(packets) == (type & 0x40 != 0 ? [6] : []))
    #expect(packets.contains { chunkTypes($0).contains(5) } == (type & 0x80 != 0))
    #expect(duo.stateOfZ == .established)
  }

  @Test("ECNE, CWR and PAD are passed over", arguments: [12, 13, 0x84] as [UInt8])
  func ignored(type: UInt8) {
    let (_, packets) = Self.answers([RawChunk(type) { $0.writeInteger(UInt32(1)) }, Self.heartbeat])
    #expect(packets.contains { chunkTypes($0).contains(5) } && errorCauses(packets).isEmpty)
  }

  @Test("DATA of a stream that does not exist is acknowledged, named and dropped; the association goes on")
  func invalidStream() {
    var few = DatagramDuo.configuration()
    few.inboundStreams = 3
    var duo = DatagramDuo.established(z: few)
    duo.send(.a, message(5_000, 1), stream: 3)
    duo.send(.a, message(100, 2), stream: 2)
    duo.run(for: .seconds(3.0))
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == [message(100, 2)])
    #expect(errorCauses(duo.trace.filter { $0.from == .z }.map(\.packet)).first == 1)
    #expect(duo.a.association(duo.associationOfA!)?.unacknowledged == 0 && duo.stateOfA == .established)
  }

  @Test("DATA without an octet ends the association, with the TSN named", arguments: [false, true])
  func noUserData(interleaving: Bool) {
    let configuration = DatagramDuo.configuration(interleaving: interleaving)
    var duo = DatagramDuo.established(a: configuration, z: configuration)
    duo.tamper = { side, packet in
      guard side == .a, let chunk = rawChunks(packet).first, chunk.type == (interleaving ? 64 : 0) else { return packet }
      let header = chunk.value.getSlice(at: chunk.value.readerIndex, length: interleaving ? 16 : 12)!
      return rawPacket(like: packet, [RawChunk(chunk.type, flags: 3) { $0.writeImmutableBuffer(header) }])
    }
    duo.send(.a, message(10))
    duo.run(for: .seconds(1.0))
    #expect(errorCauses(duo.trace.filter { $0.from == .z }.map(\.packet)) == [9])
  }

  @Test("a breach of the protocol is answered with ABORT, cause 13, in words")
  func violation() {
    let (duo, packets) = Self.answers([RawChunk(3) { $0.writeInteger(UInt16(1)) }])
    #expect(errorCauses(packets) == [13] && duo.z.associations.isEmpty)
  }

  @Test("a window that stays shut for long ends nothing: one chunk asks, and everything arrives when it opens")
  func zeroWindow() {
    var duo = DatagramDuo.established()
    let isShut = Box(true)
    duo.tamper = { side, packet in
      guard side == .z, isShut.value else { return packet }
      let chunks = rawChunks(packet).map { chunk in
        guard chunk.type == 3 else { return chunk }
        var shut = chunk
        shut.value.setInteger(UInt32(0), at: shut.value.readerIndex + 4)
        return shut
      }
      return rawPacket(like: packet, chunks)
    }
    for number in 0..<50 { duo.send(.a, message(1_000, UInt8(number))) }
    duo.run(for: .milliseconds(500 as Int64))
    let early = Duo.messages(duo.effectsOfZ).count
    #expect(early < 50)
    duo.run(for: .seconds(3.0))
    isShut.value = false
    let isDone = duo.run(atMost: .seconds(60.0)) { Duo.messages($0.effectsOfZ).count == 50 }
    #expect(isDone && duo.stateOfA == .established)
    #expect(duo.statisticsOfA.timeouts == 0)
  }

  @Test("a request to delete the address that it comes from is refused, and the address stays")
  func deleteSource() {
    var duo = DatagramDuo.established(a: DatagramDuo.configuration(addresses: [DatagramDuo.a1, DatagramDuo.a2]))
    let now = duo.network.now
    duo.a.with(duo.associationOfA!) { $0.withdraw(DatagramDuo.a1, at: now) }
    duo.run(for: .seconds(3.0))
    #expect(duo.z.association(duo.associationOfZ!)?.peerAddresses.contains(DatagramDuo.a1) == true)
    #expect(duo.a.association(duo.associationOfA!)?.localAddresses.contains(DatagramDuo.a1) == true)
    #expect(duo.stateOfA == .established && duo.stateOfZ == .established)
  }
}

@Suite("The end in every state")
struct EveryEndTests {
  static func packet(_ duo: DatagramDuo) -> ByteBuffer { duo.trace.last { $0.from == .a && chunkTypes($0.packet) != [1] }!.packet }

  @Test("both ends shut down at once with data on the way in both directions, on a bad network", arguments: 0..<30)
  func simultaneous(seed: Int) {
    let interleaving = seed % 2 == 0
    let configuration = DatagramDuo.configuration(interleaving: interleaving, scheduler: interleaving ? .roundRobin : .firstCome)
    var duo = DatagramDuo.established(seed: UInt64(seed), a: configuration, z: configuration)
    duo.faults = Faults(loss: 0.1, duplication: 0.1, reordering: 0.2)
    for number in 0..<15 {
      duo.send(.a, message(4_000, UInt8(number)), stream: UInt16(number % 3))
      duo.send(.z, message(4_000, UInt8(number)), stream: UInt16(number % 3))
    }
    duo.shutdown(.a)
    duo.shutdown(.z)
    let isDone = duo.run(atMost: .seconds(900.0)) { $0.a.associations.isEmpty && $0.z.associations.isEmpty }
    #expect(isDone, "seed \(seed)")
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    #expect(Duo.messages(duo.effectsOfZ).count == 15 && Duo.messages(duo.effectsOfA).count == 15, "seed \(seed)")
  }

  @Test("SHUTDOWN with DATA outstanding: the other end sends all that it has before it agrees")
  func outstanding() {
    var duo = DatagramDuo.established(delay: .milliseconds(100 as Int64))
    for number in 0..<30 { duo.send(.z, message(2_000, UInt8(number))) }
    duo.shutdown(.a)
    duo.run(for: .milliseconds(250 as Int64))
    #expect(duo.stateOfA == .shutdownSent && duo.stateOfZ == .shutdownReceived)
    duo.run(for: .seconds(20.0))
    #expect(Duo.messages(duo.effectsOfA).count == 30)
    #expect(duo.a.associations.isEmpty && duo.z.associations.isEmpty)
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil)
  }

  @Test("SHUTDOWN COMPLETE out of its state, and SHUTDOWN ACK in ESTABLISHED, change nothing", arguments: [14, 8] as [UInt8])
  func outOfState(type: UInt8) {
    var duo = DatagramDuo.established()
    duo.z.receive(
      rawPacket(like: Self.packet(duo), [RawChunk(type)]), on: DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1), at: duo.network.now)
    duo.send(.a, message(10))
    duo.run(for: .seconds(1.0))
    #expect(duo.stateOfZ == .established && Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("a peer that never answers SHUTDOWN, or SHUTDOWN ACK, is given up after its tries", arguments: [7, 8] as [UInt8])
  func unanswered(type: UInt8) {
    var duo = DatagramDuo.established()
    duo.tamper = { side, packet in
      let types = chunkTypes(packet)
      // SHUTDOWN is heard and its answer is not, or SHUTDOWN ACK is heard and SHUTDOWN COMPLETE is not.
      return types.contains(type == 7 ? 8 : 14) || types.contains(6) ? nil : packet
    }
    duo.shutdown(.a)
    duo.run(for: .seconds(900.0))
    #expect(duo.a.associations.isEmpty && duo.z.associations.isEmpty)
  }

  @Test("ABORT ends the association in every state", arguments: [false, true])
  func abort(isShuttingDown: Bool) {
    var duo = DatagramDuo.established()
    if isShuttingDown {
      duo.tamper = { side, packet in side == .z && chunkTypes(packet).contains(8) ? nil : packet }
      duo.shutdown(.a)
      duo.run(for: .milliseconds(100 as Int64))
      #expect(duo.stateOfZ == .shutdownAckSent)
    }
    let abort = RawChunk(6) { $0.writeRawParameter(12) { $0.writeString("enough") } }
    duo.z.receive(rawPacket(like: Self.packet(duo), [abort]), on: DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1), at: duo.network.now)
    duo.pump()
    #expect(duo.z.associations.isEmpty && Duo.failure(duo.effectsOfZ) == .peerAborted("enough"))
  }
}
