import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

@Suite("Data on datagrams")
struct DatagramDataTests {
  @Test("messages of every size arrive whole and in order", arguments: [1, 3, 1_224, 1_225, 20_000, 200_000])
  func sizes(count: Int) {
    var duo = DatagramDuo.established()
    for stream in 0..<5 as Range<UInt16> {
      let (up, down) = (duo.send(.a, message(count, UInt8(stream)), stream: stream), duo.send(.z, message(count, 100), stream: stream))
      #expect(up && down)
    }
    duo.run(for: .seconds(30.0))
    let atZ = Duo.messages(duo.effectsOfZ)
    #expect(atZ.map(\.stream) == [0, 1, 2, 3, 4])
    #expect(atZ.enumerated().allSatisfy { $0.element.text == message(count, UInt8($0.offset)) })
    #expect(Duo.messages(duo.effectsOfA).count == 5)
    #expect(duo.trace.allSatisfy { $0.packet.readableBytes <= 1_252 })
    #expect(duo.statisticsOfA.chunksRetransmitted == 0 && duo.statisticsOfZ.chunksRetransmitted == 0)
  }

  @Test("no more than the initial window leaves before the first SACK, and it grows from there")
  func slowStart() {
    var duo = DatagramDuo.established(delay: .milliseconds(100 as Int64))
    duo.trace.removeAll()
    for _ in 0..<200 { duo.send(.a, message(1_200)) }
    duo.run(for: .milliseconds(150 as Int64))
    let first = duo.trace.filter { $0.from == .a }.count
    #expect(first == 4)  // min(4 x 1,252, max(2 x 1,252, 4,404)) = 4,404: the fourth packet overshoots
    duo.run(for: .milliseconds(200 as Int64))
    #expect(duo.trace.filter { $0.from == .a }.count > 2 * first)
  }

  @Test("a lost packet is sent again after three reports, without a timeout")
  func fastRetransmit() {
    var duo = DatagramDuo.established()
    for number in 0..<60 { duo.send(.a, message(1_200, UInt8(number))) }
    let count = Box(0)
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(0) else { return packet }
      count.value += 1
      return count.value == 20 ? nil : packet
    }
    duo.run(for: .seconds(5.0))
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == (0..<60).map { message(1_200, UInt8($0)) })
    #expect(duo.statisticsOfA.fastRetransmits == 1 && duo.statisticsOfA.timeouts == 0)
    #expect(duo.statisticsOfA.chunksRetransmitted == 1)
  }

  @Test("the last packet, lost, comes after the RTO; twice lost, after twice that")
  func timeout() {
    var duo = DatagramDuo.established()
    let count = Box(0)
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(0) else { return packet }
      count.value += 1
      return count.value <= 2 ? nil : packet
    }
    let start = duo.network.now
    duo.send(.a, message(100))
    let isDone = duo.run(atMost: .seconds(10.0)) { Duo.messages($0.effectsOfZ).count == 1 }
    #expect(isDone)
    #expect(duo.statisticsOfA.timeouts == 2)
    let took = duo.network.now - start
    #expect(took >= .seconds(3.0) && took < .seconds(3.5))
  }

  @Test("a gap holds up its own stream only, and no unordered message")
  func headOfLine() {
    var duo = DatagramDuo.established()
    let isFirst = Box(true)
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(0), isFirst.value else { return packet }
      isFirst.value = false
      return nil
    }
    duo.send(.a, message(1_200, 1), stream: 1)
    duo.send(.a, message(1_200, 2), stream: 2)
    duo.send(.a, message(1_200, 3), stream: 1)
    duo.send(.a, message(900, 4), stream: 1, isUnordered: true)
    duo.run(for: .milliseconds(30 as Int64))  // before A can know
    #expect(Duo.messages(duo.effectsOfZ).map { $0.text.readableBytesView.first } == [2, 4])
    duo.run(for: .seconds(3.0))
    #expect(Duo.messages(duo.effectsOfZ).map { $0.text.readableBytesView.first } == [2, 4, 1, 3])
  }

  @Test("a window that one message fills does not stop the association")
  func smallWindow() {
    var small = DatagramDuo.configuration()
    small.receiveWindow = ByteCount(8_000)
    var duo = DatagramDuo.established(z: small)
    duo.faults.loss = 0.05
    for number in 0..<30 { duo.send(.a, message(7_900, UInt8(number)), stream: UInt16(number % 3)) }
    let isDone = duo.run(atMost: .seconds(600.0)) { Duo.messages($0.effectsOfZ).count == 30 }
    #expect(isDone)
  }

  @Test("a bulk transfer over a lossy, reordering network takes what its losses allow", arguments: [0.0, 0.01, 0.05])
  func bulk(loss: Double) {
    var duo = DatagramDuo.established(seed: 7)
    duo.faults = Faults(loss: loss, duplication: loss / 5, corruption: loss / 5, reordering: loss, lateness: .milliseconds(10 as Int64))
    let start = duo.network.now
    for number in 0..<200 { duo.send(.a, message(10_000, UInt8(number))) }
    let isDone = duo.run(atMost: .seconds(300.0)) { Duo.messages($0.effectsOfZ).count == 200 }
    #expect(isDone)
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == (0..<200).map { message(10_000, UInt8($0)) })
    let rate = 2_000_000 * 8 / (duo.network.now - start).seconds / 1e6
    // Mathis: 1,252 x 8 x 1.22 / (40 ms x sqrt(loss)) is 3 Mbit/s at 1 %, 1.4 at 5 %; timeouts of a second take their part.
    #expect(rate > (loss == 0 ? 10 : loss == 0.01 ? 1 : 0.2), "\(rate) Mbit/s, \(duo.statisticsOfA)")
  }
}

@Suite("Paths")
struct PathTests {
  static func twoHomed() -> DatagramDuo {
    DatagramDuo.established(z: DatagramDuo.configuration(addresses: [DatagramDuo.z3, DatagramDuo.z4]))
  }

  static func changes(_ effects: [Effect]) -> [(CarrierID, PathStatus)] {
    effects.compactMap { if case .pathChanged(let id, let status) = $0 { (id, status) } else { nil } }
  }

  @Test("an address that the peer names is used only after a HEARTBEAT has come back from it")
  func confirmation() {
    var duo = Self.twoHomed()
    #expect(duo.a.association(duo.associationOfA!)?.status(of: CarrierID(2)) == .active)
    duo = DatagramDuo(z: DatagramDuo.configuration(addresses: [DatagramDuo.z3, DatagramDuo.z4]))
    duo.dead = [DatagramDuo.z4]
    duo.connect()
    duo.run(for: .seconds(20.0))
    #expect(duo.stateOfA == .established)
    #expect(duo.a.association(duo.associationOfA!)?.status(of: CarrierID(2)) == .unconfirmed)
    let there = duo.trace.filter { $0.route.remote.address == DatagramDuo.z4 }
    #expect(!there.isEmpty && there.allSatisfy { chunkTypes($0.packet) == [4] })
  }

  @Test("when the primary path dies the data goes on over the other one, and comes back when it works again")
  func failover() {
    var duo = Self.twoHomed()
    duo.dead = [DatagramDuo.z3]
    for number in 0..<50 { duo.send(.a, message(1_200, UInt8(number))) }
    let isDone = duo.run(atMost: .seconds(200.0)) { Duo.messages($0.effectsOfZ).count == 50 }
    #expect(isDone)
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == (0..<50).map { message(1_200, UInt8($0)) })
    for _ in 0..<60 {
      duo.send(.a, message(10))
      duo.run(for: .seconds(5.0))
    }
    #expect(Self.changes(duo.effectsOfA).contains { $0 == (CarrierID(1), .failed) })
    #expect(Duo.messages(duo.effectsOfZ).count == 110)
    duo.dead = []
    duo.run(for: .seconds(200.0))
    #expect(duo.a.association(duo.associationOfA!)?.status(of: CarrierID(1)) == .active)
    #expect(duo.stateOfA == .established && duo.stateOfZ == .established)
  }

  @Test("a peer that answers on no path ends the association after Association.Max.Retrans")
  func unreachable() {
    var duo = Self.twoHomed()
    duo.dead = [DatagramDuo.z3, DatagramDuo.z4]
    duo.send(.a, message(10))
    duo.run(for: .seconds(1_000.0))
    #expect(Duo.failure(duo.effectsOfA) == .peerUnreachable)
    #expect(Duo.failure(duo.effectsOfZ) == .peerUnreachable)
    #expect(duo.a.associations.isEmpty && duo.z.associations.isEmpty)
  }

  @Test("idle paths are asked with HEARTBEAT, and a jump of the clock costs one error at most")
  func jump() {
    var duo = Self.twoHomed()
    duo.trace.removeAll()
    duo.run(for: .seconds(100.0))
    let beats = duo.trace.filter { $0.from == .a && chunkTypes($0.packet) == [4] }.count
    #expect((4...9).contains(beats))  // two paths, every 31 s and half of an RTO more or less
    duo.network.jump(by: .seconds(3_600.0))
    duo.run(for: .seconds(100.0))
    #expect(duo.stateOfA == .established && Self.changes(duo.effectsOfA).filter { $0.1 == .failed }.isEmpty)
  }
}
