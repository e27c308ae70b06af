import NIOCore
import SCTP
import Testing
import Vocabulary

@Suite("A peer without room")
struct ClosedWindowTests {
  /// Z takes neither DATA nor HEARTBEAT, and `answers` says whether it says so, for ten minutes: far beyond Association.Max.Retrans.
  static func run(answers: Bool) throws -> DatagramDuo {
    var duo = DatagramDuo.established()
    let lost = Box(0)
    let first = Box(UInt32?.none)
    duo.tamper = { side, packet in
      let types = chunkTypes(packet)
      if side == .a, types.contains(4) { return nil }  // an answered HEARTBEAT would forgive errors, too
      guard side == .a, types.contains(0) else { return packet }
      lost.value += 1
      if first.value == nil { first.value = packet.getInteger(at: packet.readerIndex + 16) }
      return nil
    }
    duo.send(.a, message(5_000))
    let tag = duo.a.association(duo.associationOfA!)!.localVerificationTag
    var answered = 0
    for _ in 0..<600 {
      duo.run(for: .seconds(1.0))
      guard answers, lost.value > answered, let tsn = first.value else { continue }
      answered = lost.value
      var sack = ByteBuffer(integer: tsn &- 1)
      sack.writeMultipleIntegers(UInt32(0), UInt16(0), UInt16(0))
      duo.a.receive(
        OutOfTheBlueTests.packet(3, tag: tag, Array(sack.readableBytesView)), on: DatagramDuo.route(DatagramDuo.a1, DatagramDuo.z3),
        at: duo.network.now)
    }
    duo.tamper = { $1 }
    return duo
  }

  @Test("is tried for as long as it says that it has none (RFC 9260 section 6.1), and gets all when it has some again")
  func closed() throws {
    var duo = try Self.run(answers: true)
    #expect(duo.stateOfA == .established)
    #expect(duo.statisticsOfA.timeouts > 10)
    duo.run(for: .seconds(120.0))
    #expect(Duo.messages(duo.effectsOfZ).map(\.text.readableBytes) == [5_000])
  }

  @Test("that says nothing is given up")
  func silent() throws {
    let duo = try Self.run(answers: false)
    #expect(duo.stateOfA != .established)
  }
}
