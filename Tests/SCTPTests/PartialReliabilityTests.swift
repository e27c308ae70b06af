import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

func abandoned(_ effects: [Effect]) -> [(stream: UInt16, wasSent: Bool)] {
  effects.compactMap { if case .abandoned(let stream, _, let wasSent) = $0 { (stream.value, wasSent) } else { nil } }
}

@Suite("Messages that are given up")
struct PartialReliabilityTests {
  static func duo(interleaving: Bool, seed: UInt64 = 1) -> DatagramDuo {
    let configuration = DatagramDuo.configuration(interleaving: interleaving, scheduler: interleaving ? .roundRobin : .firstCome)
    return DatagramDuo.established(seed: seed, a: configuration, z: configuration)
  }

  /// Loses every packet of A with DATA whose payload holds this octet.
  static func lose(_ octet: UInt8, in duo: inout DatagramDuo) {
    duo.tamper = { side, packet in
      let isHit = rawChunks(packet).contains { chunk in
        (chunk.type == 0 || chunk.type == 64) && chunk.value.readableBytesView.last == octet
      }
      return side == .a && isHit ? nil : packet
    }
  }

  @Test("a message is sent again as often as allowed, then skipped, and what waited behind it is delivered", arguments: [true, false])
  func retransmissions(interleaving: Bool) {
    var duo = Self.duo(interleaving: interleaving)
    Self.lose(66, in: &duo)
    duo.send(.a, message(1_000, 1), stream: 2)
    duo.send(.a, message(1_000, 66), stream: 2, reliability: .retransmissions(2))
    duo.send(.a, message(1_000, 3), stream: 2)
    duo.send(.a, message(1_000, 4), stream: 3)
    duo.run(for: .seconds(30.0))
    #expect(Duo.messages(duo.effectsOfZ).map { $0.text.readableBytesView.first } == [1, 4, 3])
    #expect(abandoned(duo.effectsOfA).map(\.wasSent) == [true])
    let tries = duo.trace.filter { $0.from == .a }.flatMap { rawChunks($0.packet) }.count { $0.value.readableBytesView.last == 66 }
    #expect(tries == 3)
    #expect(duo.trace.contains { chunkTypes($0.packet).contains(interleaving ? 0xc2 : 0xc0) })
    #expect(duo.a.association(duo.associationOfA!)?.unacknowledged == 0)
  }

  @Test("a message whose time is over before it begins takes no TSN, with any peer", arguments: [true, false])
  func unsent(peerCan: Bool) {
    var peer = DatagramDuo.configuration()
    peer.features.partialReliability = peerCan
    var duo = DatagramDuo.established(rate: .megabitsPerSecond(1), z: peer)
    let end = duo.network.now + .milliseconds(50 as Int64)
    for number in 0..<100 { duo.send(.a, message(1_200, UInt8(number)), reliability: .until(end)) }
    duo.send(.a, message(1_200, 200))
    duo.run(for: .seconds(30.0))
    let got = Duo.messages(duo.effectsOfZ).map { $0.text.readableBytesView.first! }
    let dropped = abandoned(duo.effectsOfA)
    #expect(got.count + dropped.count == 101 && got.last == 200 && dropped.count > 50)
    #expect(dropped.allSatisfy { !$0.wasSent })
    #expect(duo.trace.allSatisfy { !chunkTypes($0.packet).contains(0xc0) })
  }

  @Test("a message of many fragments is given up as a whole, those that have not been sent too", arguments: [true, false])
  func fragments(interleaving: Bool) {
    var duo = Self.duo(interleaving: interleaving)
    duo.send(.a, message(30_000, 1), stream: 1)
    duo.run(for: .seconds(2.0))
    let count = Box(0)
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(where: { $0 == 0 || $0 == 64 }) else { return packet }
      count.value += 1
      return count.value == 3 ? nil : packet  // the third fragment of the next message
    }
    duo.send(.a, message(100_000, 2), stream: 1, reliability: .retransmissions(0))
    duo.send(.a, message(3_000, 3), stream: 1)
    duo.send(.a, message(3_000, 4), stream: 2, isUnordered: true)
    duo.run(for: .seconds(30.0))
    #expect(Duo.messages(duo.effectsOfZ).map { $0.text.readableBytesView.first! }.sorted() == [1, 3, 4])
    #expect(abandoned(duo.effectsOfA).count == 1)
    #expect(duo.a.association(duo.associationOfA!)?.unacknowledged == 0)
    duo.shutdown(.a)
    duo.run(for: .seconds(5.0))
    #expect(duo.a.associations.isEmpty && duo.z.associations.isEmpty)
  }

  @Test("a FORWARD-TSN that is lost is said again")
  func lostForward() {
    var duo = Self.duo(interleaving: false)
    let count = Box(0)
    duo.tamper = { side, packet in
      let chunks = rawChunks(packet)
      if chunks.contains(where: { $0.type == 0xc0 }) {
        count.value += 1
        return count.value <= 2 ? nil : packet
      }
      return side == .a && chunks.contains { $0.type == 0 && $0.value.readableBytesView.last == 66 } ? nil : packet
    }
    duo.send(.a, message(1_000, 66), reliability: .retransmissions(0))
    duo.run(for: .seconds(30.0))
    #expect(count.value == 3)
    duo.send(.a, message(1_000, 2))
    duo.run(for: .seconds(3.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("on a reliable carrier, what was lost with the old one and is not worth sending again is skipped on the new one")
  func carrier() {
    var duo = Duo.established(delay: .milliseconds(50 as Int64))
    for number in 0..<20 {
      _ = duo.a.send(
        message(5_000, UInt8(number)), stream: StreamID(1), protocolIdentifier: 1, endOfWrite: false,
        reliability: number % 2 == 0 ? .full : .retransmissions(0))
    }
    duo.run(for: .milliseconds(10 as Int64))
    duo.blackHole(CarrierID(1))
    let second = duo.dial()
    duo.move(to: second)
    duo.run(for: .seconds(2.0))
    let got = Duo.messages(duo.effectsOfZ).map { $0.text.readableBytesView.first! }
    #expect(got == stride(from: 0, to: 20, by: 2).map { UInt8($0) })
    #expect(abandoned(duo.effectsOfA).count == 10 && duo.a.unacknowledged == 0)
    let isTaken = duo.a.send(message(10, 99), stream: StreamID(1), protocolIdentifier: 1, endOfWrite: true)
    duo.run(for: .seconds(1.0))
    #expect(isTaken && Duo.messages(duo.effectsOfZ).count == 11)
  }

  @Test(
    "whatever a network loses: full messages all arrive, limited ones at most once and in order, and nothing stands still",
    arguments: 0..<120)
  func random(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed))
    let isInterleaved = Bool.random(using: &random)
    var duo = Self.duo(interleaving: isInterleaved, seed: UInt64(seed))
    duo.faults = Faults(
      loss: [0.05, 0.3].randomElement(using: &random)!, duplication: 0.05, corruption: 0.01,
      reordering: [0, 0.3].randomElement(using: &random)!)
    var sent: [[(number: UInt32, isFull: Bool)]] = Array(repeating: [], count: 4)
    var number: UInt32 = 0
    for _ in 0..<60 {
      for _ in 0..<Int.random(in: 0...3, using: &random) {
        let stream = Int.random(in: 0..<4, using: &random)
        number += 1
        var text = ByteBuffer(integer: number)
        text.writeRepeatingByte(1, count: Int.random(in: 0...6_000, using: &random))
        let reliability: Reliability =
          switch Int.random(in: 0..<4, using: &random) {
          case 0: .retransmissions(UInt16.random(in: 0...2, using: &random))
          case 1: .until(duo.network.now + .milliseconds(Int64.random(in: 0...800, using: &random)))
          default: .full
          }
        if duo.send(.a, text, stream: UInt16(stream), isUnordered: stream == 3, reliability: reliability) {
          sent[stream].append((number, reliability == .full))
        }
      }
      duo.run(for: .milliseconds(Int64.random(in: 0...200, using: &random)))
    }
    duo.faults.loss = 0.05
    let isDone = duo.run(atMost: .seconds(600.0)) { $0.a.association($0.associationOfA!)?.unacknowledged == 0 }
    duo.faults = Faults()
    duo.run(for: .seconds(120.0))
    #expect(isDone && Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    for stream in 0..<4 {
      var got = Duo.messages(duo.effectsOfZ).filter { Int($0.stream) == stream }.map {
        $0.text.getInteger(at: $0.text.readerIndex, as: UInt32.self)!
      }
      if stream == 3 { got.sort() }
      #expect(Set(got).count == got.count && got == got.sorted(), "seed \(seed), stream \(stream)")
      #expect(Set(sent[stream].filter(\.isFull).map(\.number)).isSubset(of: got), "seed \(seed), stream \(stream)")
      #expect(Set(got).isSubset(of: sent[stream].map(\.number)), "seed \(seed), stream \(stream)")
    }
    #expect(duo.a.association(duo.associationOfA!)?.unacknowledged == 0, "seed \(seed)")
  }
}
