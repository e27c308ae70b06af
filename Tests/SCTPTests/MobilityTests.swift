import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

@Suite("Moving")
struct MobilityTests {
  @Test("an address is announced, withdrawn, and announced again")
  func announce() {
    var duo = Duo.established()
    duo.z?.announce(Duo.z4, at: duo.network.now)
    duo.run(for: .seconds(1.0))
    #expect(duo.a.peerAddresses == [Duo.z3, Duo.z4])
    #expect(duo.effectsOfZ.contains { if case .announced(Duo.z4) = $0 { true } else { false } })
    duo.z?.withdraw(Duo.z4, at: duo.network.now)
    duo.run(for: .seconds(1.0))
    #expect(duo.a.peerAddresses == [Duo.z3])
    duo.z?.withdraw(Duo.z3, at: duo.network.now)
    duo.run(for: .seconds(1.0))
    #expect(duo.a.peerAddresses == [Duo.z3], "the last address stays")
    duo.z?.announce(Duo.z4, at: duo.network.now)
    duo.run(for: .seconds(1.0))
    #expect(duo.a.peerAddresses == [Duo.z3, Duo.z4])
  }

  @Test("data goes on over the new carrier: exactly what the old one took with it is sent again")
  func move() {
    var duo = Duo.established(delay: .milliseconds(50 as Int64))
    for number in 0..<200 { _ = duo.z!.send(message(10_000, UInt8(number)), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.run(for: .milliseconds(100 as Int64))
    let before = Duo.messages(duo.effectsOfA).count
    #expect(before > 0 && before < 200)
    duo.blackHole(CarrierID(1))
    duo.run(for: .milliseconds(500 as Int64))
    #expect(Duo.messages(duo.effectsOfA).count == before)
    let second = duo.dial(delay: .milliseconds(150 as Int64))
    duo.trace.removeAll()
    let start = duo.network.now
    duo.move(to: second)
    duo.run(for: .seconds(5.0))
    let got = Duo.messages(duo.effectsOfA)
    #expect(got.map { $0.text } == (0..<200).map { message(10_000, UInt8($0)) })
    #expect(Duo.moves(duo.effectsOfA) == [second] && Duo.moves(duo.effectsOfZ) == [second])
    #expect(duo.a.epoch == 1 && duo.z?.epoch == 1)
    // All that Z had sent, and A had not got, and nothing else.
    #expect(duo.z!.statistics.octetsRetransmitted == (200 - before) * 10_000)
    #expect(duo.a.statistics.duplicatesReceived == 0)
    _ = start
    // The first thing on the new carrier is one packet of AUTH, ASCONF and SACK.
    #expect(duo.trace.first.map { chunkTypes($0.packet) } == [15, 0xc1, 3])
    #expect(duo.trace.first { $0.from == .z }.map { chunkTypes($0.packet) } == [15, 3, 0x80])
  }

  @Test("data is back one round trip after the first flight leaves")
  func latency() {
    var duo = Duo.established()
    for _ in 0..<100 { _ = duo.z!.send(message(10_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.blackHole(CarrierID(1))
    duo.run(for: .milliseconds(10 as Int64))
    let second = duo.dial(delay: .milliseconds(150 as Int64))
    duo.move(to: second)
    duo.effectsOfA.removeAll()
    duo.run(for: .milliseconds(299 as Int64))
    #expect(Duo.messages(duo.effectsOfA).isEmpty)
    duo.run(for: .milliseconds(10 as Int64))
    #expect(!Duo.messages(duo.effectsOfA).isEmpty)
  }

  @Test(
    "the first packets on a new carrier fit into a segment, so that none waits for a round trip of TCP's slow start; later ones are large")
  func youngCarrier() throws {
    var duo = Duo.established()
    for _ in 0..<1_000 { _ = duo.z!.send(message(500), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.blackHole(CarrierID(1))
    duo.run(for: .milliseconds(10 as Int64))
    let second = duo.dial()
    duo.move(to: second)
    duo.trace.removeAll()
    duo.run(for: .seconds(1.0))
    let sizes = duo.trace.filter { $0.from == .z && $0.on == second }.map { $0.packet.readableBytes }
    var octets = 0
    let young = sizes.prefix { size in
      defer { octets += size }
      return octets < Duo.configuration().youngCarrierOctets
    }
    #expect(young.count >= 46 && young.allSatisfy { $0 <= 1_400 })
    #expect(try #require(sizes.max()) > 30_000)
  }

  @Test("what the client had under way is sent again only after the peer's SACK, and only what it lacks")
  func upstream() {
    var duo = Duo.established(delay: .milliseconds(50 as Int64))
    for number in 0..<200 { _ = duo.a.send(message(10_000, UInt8(number)), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.run(for: .milliseconds(100 as Int64))
    duo.blackHole(CarrierID(1))
    let held = Duo.messages(duo.effectsOfZ).count
    let second = duo.dial()
    duo.trace.removeAll()
    duo.move(to: second)
    duo.run(for: .seconds(5.0))
    #expect(Duo.messages(duo.effectsOfZ).map { $0.text } == (0..<200).map { message(10_000, UInt8($0)) })
    #expect(duo.a.statistics.octetsRetransmitted <= (200 - held) * 10_000)
    #expect(duo.z!.statistics.duplicatesReceived == 0)
    let firstOfZ = duo.trace.firstIndex { $0.from == .z }!
    #expect(duo.trace[..<firstOfZ].allSatisfy { chunkTypes($0.packet) == [15, 0xc1, 3] })
  }

  @Test("packets of the old carrier are refused after the fence")
  func fence() {
    var duo = Duo.established(delay: .milliseconds(200 as Int64))
    for _ in 0..<20 { _ = duo.a.send(message(10_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.pump()  // twenty messages are under way on the slow carrier
    let second = duo.dial(delay: .milliseconds(1 as Int64))
    duo.move(to: second)
    duo.run(for: .seconds(2.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 20)
    #expect(duo.z!.statistics.duplicatesReceived == 0)
    #expect(duo.effectsOfZ.contains { if case .closeCarrier(CarrierID(1), _) = $0 { true } else { false } })
  }

  @Test("a replayed first flight, on any carrier, moves nothing")
  func replay() {
    var duo = Duo.established()
    let second = duo.dial()
    duo.trace.removeAll()
    duo.move(to: second)
    duo.run(for: .seconds(1.0))
    let flight = duo.trace[0].packet
    let third = duo.dial()
    duo.move(to: third)
    duo.run(for: .seconds(1.0))
    #expect(duo.z?.activeCarrier == third)
    // An attacker that has recorded the first flight sends it on a connection of its own.
    let stranger = duo.dial()
    duo.receiveAtZ(flight, on: duo.lines[stranger]!)
    duo.run(for: .seconds(1.0))
    #expect(duo.z?.activeCarrier == third && duo.z?.epoch == 2)
    duo.receiveAtZ(duo.trace.last { $0.from == .a && chunkTypes($0.packet).contains(0xc1) }!.packet, on: duo.lines[stranger]!)
    duo.run(for: .seconds(1.0))
    #expect(duo.z?.activeCarrier == third && duo.z?.epoch == 2)
  }

  @Test("an ASCONF without authentication, or with a wrong code, is dropped")
  func forged() {
    var duo = Duo.established()
    let second = duo.dial()
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(0xc1) else { return packet }
      var changed = packet
      let at = packet.readerIndex + 12 + 8 + 5  // in the code of the AUTH chunk
      changed.setInteger(packet.getInteger(at: at, as: UInt8.self)! ^ 1, at: at)
      return rechecksummed(changed)
    }
    duo.move(to: second)
    duo.run(for: .seconds(1.0))
    #expect(duo.z?.activeCarrier == CarrierID(1) && duo.z?.epoch == 0)
    #expect(duo.z!.statistics.packetsDropped > 0)
  }

  @Test("a second move may begin before the first has been answered")
  func overlapping() {
    var duo = Duo.established()
    for number in 0..<100 { _ = duo.z!.send(message(10_000, UInt8(number)), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.run(for: .milliseconds(20 as Int64))
    let second = duo.dial()
    duo.move(to: second)
    duo.run(for: .milliseconds(7 as Int64))  // Z has switched, its answer is under way
    duo.blackHole(second)
    let third = duo.dial()
    duo.move(to: third)
    duo.run(for: .seconds(2.0))
    #expect(Duo.moves(duo.effectsOfA) == [third])
    #expect(duo.z?.activeCarrier == third)
    #expect(Duo.messages(duo.effectsOfA).map { $0.text } == (0..<100).map { message(10_000, UInt8($0)) })
  }

  @Test("an announcement that was under way when the carrier died is made on the next one")
  func announcementSurvives() {
    var duo = Duo.established()
    duo.z?.announce(Duo.z4, at: duo.network.now)
    duo.pump()
    duo.blackHole(CarrierID(1))
    let second = duo.dial(Duo.z3)
    duo.move(to: second)
    duo.run(for: .seconds(1.0))
    #expect(duo.a.peerAddresses.contains(Duo.z4))
    #expect(duo.effectsOfZ.contains { if case .announced(Duo.z4) = $0 { true } else { false } })
  }

  @Test("every message arrives once and in order on its stream, whatever happens to the carriers", arguments: 0..<400)
  func random(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed))
    var duo = Duo.established(seed: UInt64(seed), delay: .milliseconds(Int64.random(in: 0...150, using: &random)))
    var sent: [[[ByteBuffer]]] = [Array(repeating: [], count: 3), Array(repeating: [], count: 3)]
    var active = CarrierID(1)
    var number: UInt32 = 0
    for _ in 0..<Int.random(in: 10...60, using: &random) {
      switch Int.random(in: 0..<12, using: &random) {
      case 0...5:
        for _ in 0..<Int.random(in: 1...30, using: &random) {
          let stream = Int.random(in: 0..<3, using: &random)
          let side = Int.random(in: 0...1, using: &random)
          number += 1
          var text = ByteBuffer(integer: number)
          text.writeRepeatingByte(UInt8(truncatingIfNeeded: number), count: Int.random(in: 0...40_000, using: &random))
          let taken =
            side == 0
            ? duo.a.send(text, stream: StreamID(UInt16(stream)), protocolIdentifier: 5, endOfWrite: Bool.random(using: &random))
            : duo.z!.send(text, stream: StreamID(UInt16(stream)), protocolIdentifier: 5, endOfWrite: Bool.random(using: &random))
          if taken { sent[side][stream].append(text) }
        }
      case 6: duo.blackHole(active)
      case 7: duo.cut(active)
      case 8, 9:
        active = duo.dial(delay: .milliseconds(Int64.random(in: 0...150, using: &random)))
        duo.move(to: active)
      case 10: duo.z?.announce(Bool.random(using: &random) ? Duo.z4 : Duo.z3, at: duo.network.now)
      default: duo.network.jump(by: .milliseconds(Int64.random(in: 0...20_000, using: &random)))
      }
      duo.run(for: .milliseconds(Int64.random(in: 0...400, using: &random)))
    }
    active = duo.dial()
    duo.move(to: active)
    duo.run(for: .seconds(60.0))
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    for (side, effects) in [(0, duo.effectsOfZ), (1, duo.effectsOfA)] {
      let got = Duo.messages(effects)
      for stream in 0..<3 {
        #expect(
          got.filter { Int($0.stream) == stream }.map { $0.text } == sent[side][stream], "seed \(seed), side \(side), stream \(stream)")
      }
    }
    #expect(duo.a.unacknowledged == 0 && duo.z!.unacknowledged == 0, "seed \(seed)")
    #expect(duo.a.statistics.duplicatesReceived == 0 && duo.z!.statistics.duplicatesReceived == 0, "seed \(seed)")
  }
}
