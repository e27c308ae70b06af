import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

@Suite("Damaged datagrams")
struct DatagramFuzzTests {
  /// Real packets of a whole conversation: handshake, data with losses, a move, an announcement, shutdown.
  static let corpus: [ByteBuffer] = {
    var duo = DatagramDuo.established()
    duo.faults = Faults(loss: 0.1, duplication: 0.1, reordering: 0.3)
    for number in 0..<20 {
      duo.send(.a, message(3_000, UInt8(number)), stream: UInt16(number % 3), isUnordered: number % 5 == 0)
      duo.send(.z, message(500, UInt8(number)))
    }
    let now = duo.network.now
    duo.z.with(duo.associationOfZ!) { $0.announce(DatagramDuo.z4, at: now) }
    duo.run(for: .seconds(20.0))
    duo.a.move(duo.associationOfA!, to: DatagramDuo.route(DatagramDuo.a2, DatagramDuo.z3), at: duo.network.now)
    duo.run(for: .seconds(20.0))
    duo.shutdown(.a)
    duo.run(for: .seconds(60.0))
    return duo.trace.map(\.packet)
  }()

  static func damage(_ packet: ByteBuffer, _ random: inout SeededGenerator) -> ByteBuffer {
    var packet = packet
    for _ in 0..<Int.random(in: 1...4, using: &random) {
      let at = packet.readerIndex + Int.random(in: 0..<packet.readableBytes, using: &random)
      switch Int.random(in: 0..<5, using: &random) {
      case 0: packet.setInteger(UInt8.random(in: 0...255, using: &random), at: at)
      case 1 where packet.readableBytes > 20:
        packet = packet.getSlice(at: packet.readerIndex, length: Int.random(in: 12..<packet.readableBytes, using: &random))!
      case 2: packet.setInteger([0, 4, 0xff, 0x80].randomElement(using: &random)! as UInt8, at: at)
      // Just behind the chunk header: TSNs, cumulative TSNs, counts.
      case 3 where packet.readableBytes >= 28:
        let field = packet.readerIndex + 16 + 4 * Int.random(in: 0..<3, using: &random)
        packet.setInteger((packet.getInteger(at: field, as: UInt32.self) ?? 0) &+ UInt32.random(in: 0...70_000, using: &random), at: field)
      default: if at + 2 <= packet.writerIndex { packet.setInteger(UInt16.random(in: 0...70, using: &random), at: at) }
      }
    }
    return packet
  }

  @Test("bring no endpoint down, and no association beyond a clean end", arguments: seeds)
  func damaged(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed) &+ 77)
    for _ in 0..<20 {
      var duo = DatagramDuo.established(seed: UInt64(seed))
      for number in 0..<6 { duo.send(.a, message(2_000, UInt8(number))) }
      duo.run(for: .milliseconds(Int64.random(in: 0...60, using: &random)))
      for _ in 0..<10 {
        var packet = Self.damage(Self.corpus.randomElement(using: &random)!, &random)
        let toA = Bool.random(using: &random)
        let tag =
          toA
          ? duo.associationOfA.flatMap { duo.a.association($0)?.localVerificationTag }
          : duo.associationOfZ.flatMap { duo.z.association($0)?.localVerificationTag }
        // With the right tag, so that it gets as far as it can.
        if let tag, packet.readableBytes >= 12, Int.random(in: 0..<5, using: &random) > 0 {
          packet.setInteger(tag, at: packet.readerIndex + 4)
        }
        let whole = rechecksummed(packet)
        if toA {
          duo.a.receive(whole, on: DatagramDuo.route(DatagramDuo.a1, DatagramDuo.z3), at: duo.network.now)
        } else {
          duo.z.receive(whole, on: DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1), at: duo.network.now)
        }
        duo.run(for: .milliseconds(Int64.random(in: 0...300, using: &random)))
      }
      duo.run(for: .seconds(120.0))
      #expect(duo.a.associations.count <= 2 && duo.z.associations.count <= 2, "seed \(seed)")
    }
  }
}
