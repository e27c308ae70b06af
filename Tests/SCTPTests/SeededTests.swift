import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

#if canImport(Glibc)
  import Glibc
#endif

/// How many networks the random tests try: `LONGHAUL_SEEDS`, or a few hundred, which take seconds.
let seeds: Range<Int> = 0..<(getenv("LONGHAUL_SEEDS").flatMap { Int(String(cString: $0)) } ?? 300)

@Suite("Any network")
struct SeededTests {
  @Test("every message arrives once and in order on its stream, whatever the network does to datagrams", arguments: seeds)
  func random(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed) &* 31 &+ 5)
    var configuration = DatagramDuo.configuration(addresses: Bool.random(using: &random) ? [DatagramDuo.z3, DatagramDuo.z4] : [])
    if Bool.random(using: &random) { configuration.receiveWindow = ByteCount(Int.random(in: 30_000...300_000, using: &random)) }
    var duo = DatagramDuo.established(
      seed: UInt64(seed), delay: .milliseconds(Int64.random(in: 1...150, using: &random)),
      rate: .megabitsPerSecond([1, 10, 100].randomElement(using: &random)!), mtu: Int.random(in: 500...1_452, using: &random),
      z: configuration)
    duo.faults = Faults(
      loss: [0, 0.01, 0.05, 0.15].randomElement(using: &random)!, duplication: [0, 0.05].randomElement(using: &random)!,
      corruption: [0, 0.02].randomElement(using: &random)!, reordering: [0, 0.1, 0.5].randomElement(using: &random)!)
    // [side][stream]; unordered messages on a stream of their own.
    var sent: [[[ByteBuffer]]] = [Array(repeating: [], count: 4), Array(repeating: [], count: 4)]
    var number: UInt32 = 0
    for _ in 0..<Int.random(in: 5...25, using: &random) {
      switch Int.random(in: 0..<10, using: &random) {
      case 0...6:
        for _ in 0..<Int.random(in: 1...8, using: &random) {
          let (side, stream) = (Int.random(in: 0...1, using: &random), Int.random(in: 0..<4, using: &random))
          number += 1
          var text = ByteBuffer(integer: number)
          text.writeRepeatingByte(UInt8(truncatingIfNeeded: number), count: Int.random(in: 0...9_000, using: &random))
          if duo.send(side == 0 ? .a : .z, text, stream: UInt16(stream), isUnordered: stream == 3, endOfWrite: Bool.random(using: &random))
          {
            sent[side][stream].append(text)
          }
        }
      case 7: duo.dead = duo.dead.isEmpty ? [[DatagramDuo.z3, DatagramDuo.z4].randomElement(using: &random)!] : []
      case 8: duo.network.jump(by: .milliseconds(Int64.random(in: 0...5_000, using: &random)))
      default: break
      }
      duo.run(for: .milliseconds(Int64.random(in: 0...2_000, using: &random)))
      duo.dead = Double.random(in: 0..<1, using: &random) < 0.5 ? [] : duo.dead
    }
    duo.dead = []
    let wanted = sent.map { $0.reduce(0) { $0 + $1.count } }
    let isDone = duo.run(atMost: .seconds(900.0)) {
      Duo.messages($0.effectsOfZ).count >= wanted[0] && Duo.messages($0.effectsOfA).count >= wanted[1]
    }
    duo.run(for: .seconds(5.0))
    #expect(isDone, "seed \(seed)")
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    for (side, effects) in [(0, duo.effectsOfZ), (1, duo.effectsOfA)] {
      let got = Duo.messages(effects)
      for stream in 0..<3 {
        #expect(got.filter { Int($0.stream) == stream }.map(\.text) == sent[side][stream], "seed \(seed), \(side), \(stream)")
      }
      let unordered = got.filter { $0.stream == 3 }.map { $0.text.getInteger(at: $0.text.readerIndex, as: UInt32.self) ?? 0 }
      #expect(unordered.sorted() == sent[side][3].map { $0.getInteger(at: 0, as: UInt32.self) ?? 0 }, "seed \(seed), \(side)")
    }
  }
}
