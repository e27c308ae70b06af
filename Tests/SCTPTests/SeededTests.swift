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

  /// What one side sent: full messages on streams 0 to 2, unordered ones on 3, limited ones among full ones on 4.
  struct Sent {
    var full: [[ByteBuffer]] = Array(repeating: [], count: 4)
    /// On stream 4.
    var mixed: [(number: UInt32, isFull: Bool)] = []

    func agrees(with effects: [Effect], _ comment: Comment) {
      let got = Duo.messages(effects)
      for stream in 0..<3 { #expect(got.filter { Int($0.stream) == stream }.map(\.text) == full[stream], comment) }
      func numbers(_ stream: UInt16) -> [UInt32] {
        got.filter { $0.stream == stream }.map { $0.text.getInteger(at: $0.text.readerIndex, as: UInt32.self) ?? 0 }
      }
      #expect(numbers(3).sorted() == full[3].map { $0.getInteger(at: 0, as: UInt32.self) ?? 0 }, comment)
      // In order, each once, none that was not sent, and all that had no limit: what was given up holds nothing up.
      let some = numbers(4)
      #expect(some == Set(some).intersection(mixed.map(\.number)).sorted(), comment)
      #expect(Set(mixed.filter(\.isFull).map(\.number)).isSubset(of: some), comment)
    }
  }

  static func limits(_ random: inout SeededGenerator, at now: Instant) -> Reliability {
    switch Int.random(in: 0..<3, using: &random) {
    case 0: .retransmissions(UInt16.random(in: 0...3, using: &random))
    case 1: .until(now + .milliseconds(Int64.random(in: 0...2_000, using: &random)))
    default: .full
    }
  }

  static func text(_ number: inout UInt32, upTo limit: Int, _ random: inout SeededGenerator) -> ByteBuffer {
    number += 1
    var text = ByteBuffer(integer: number)
    text.writeRepeatingByte(UInt8(truncatingIfNeeded: number), count: Int.random(in: 0...limit, using: &random))
    return text
  }

  @Test("so it is with every feature on: I-DATA, schedulers, resets, limits, packet sizes, moves, jumps of time", arguments: seeds)
  func everything(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed) &* 77 &+ 3)
    func configuration(_ addresses: [IPAddress]) -> AssociationConfiguration {
      var configuration = DatagramDuo.configuration(
        addresses: addresses, interleaving: Double.random(in: 0..<1, using: &random) < 0.8,
        scheduler: allSchedulers.randomElement(using: &random)!)
      configuration.features.pathMTUDiscovery = Bool.random(using: &random)
      if Bool.random(using: &random) { configuration.receiveWindow = ByteCount(Int.random(in: 40_000...300_000, using: &random)) }
      return configuration
    }
    let (a, z) = (configuration([]), configuration(Bool.random(using: &random) ? [DatagramDuo.z3, DatagramDuo.z4] : []))
    var duo = DatagramDuo.established(
      seed: UInt64(seed), delay: .milliseconds(Int64.random(in: 1...150, using: &random)),
      rate: .megabitsPerSecond([1, 10, 100].randomElement(using: &random)!), mtu: Int.random(in: 600...3_000, using: &random), a: a, z: z)
    duo.linkMTU = Int.random(in: 1_200...2_000, using: &random)
    duo.faults = Faults(
      loss: [0, 0.01, 0.05, 0.15].randomElement(using: &random)!, duplication: [0, 0.05].randomElement(using: &random)!,
      corruption: [0, 0.02].randomElement(using: &random)!, reordering: [0, 0.1, 0.5].randomElement(using: &random)!)
    var sent = [Sent(), Sent()]
    var number: UInt32 = 0
    var local = DatagramDuo.a1
    for _ in 0..<Int.random(in: 5...25, using: &random) {
      let side = Int.random(in: 0...1, using: &random)
      let end: DatagramDuo.Side = side == 0 ? .a : .z
      switch Int.random(in: 0..<14, using: &random) {
      case 0...7:
        for _ in 0..<Int.random(in: 1...8, using: &random) {
          let stream = Int.random(in: 0..<5, using: &random)
          let text = Self.text(&number, upTo: 9_000, &random)
          let limits = stream == 4 ? Self.limits(&random, at: duo.network.now) : .full
          guard
            duo.send(
              end, text, stream: UInt16(stream), isUnordered: stream == 3, endOfWrite: Bool.random(using: &random), reliability: limits)
          else { continue }
          if stream == 4 { sent[side].mixed.append((number, limits == .full)) } else { sent[side].full[stream].append(text) }
        }
      case 8, 9:
        let ids = (0..<5).filter { _ in Bool.random(using: &random) }.map { StreamID(UInt16($0)) }
        let asks = Bool.random(using: &random)
        let body: (inout TestAssociation) -> Void = { _ = asks ? $0.askToReset(ids.isEmpty ? [StreamID(1)] : ids) : $0.resetStreams(ids) }
        if end == .a { duo.a.with(duo.associationOfA!, body) } else { duo.z.with(duo.associationOfZ!, body) }
      case 10: duo.dead = duo.dead.isEmpty ? [[DatagramDuo.z3, DatagramDuo.z4].randomElement(using: &random)!] : []
      case 11: duo.network.jump(by: .milliseconds(Int64.random(in: 0...5_000, using: &random)))
      case 12:
        local = local == DatagramDuo.a1 ? DatagramDuo.a2 : DatagramDuo.a1
        duo.a.move(duo.associationOfA!, to: DatagramDuo.route(local, DatagramDuo.z3), at: duo.network.now)
      default: duo.linkMTU = Int.random(in: 1_200...2_000, using: &random)
      }
      duo.run(for: .milliseconds(Int64.random(in: 0...2_000, using: &random)))
      duo.dead = Double.random(in: 0..<1, using: &random) < 0.5 ? [] : duo.dead
    }
    duo.dead = []
    let isDone = duo.run(atMost: .seconds(900.0)) {
      $0.a.association($0.associationOfA!)?.unacknowledged == 0 && $0.z.association($0.associationOfZ!)?.unacknowledged == 0
    }
    duo.run(for: .seconds(5.0))
    #expect(isDone, "seed \(seed)")
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    sent[0].agrees(with: duo.effectsOfZ, "seed \(seed), from A")
    sent[1].agrees(with: duo.effectsOfA, "seed \(seed), from Z")
  }

  @Test("so it is on reliable carriers that die, are moved from, and fall silent, with every feature on", arguments: seeds)
  func carriers(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed) &* 91 &+ 7)
    func configuration() -> AssociationConfiguration {
      var configuration = Duo.configuration()
      configuration.features.interleaving = Double.random(in: 0..<1, using: &random) < 0.7
      configuration.scheduler = allSchedulers.randomElement(using: &random)!
      return configuration
    }
    var duo = Duo.established(
      seed: UInt64(seed), delay: .milliseconds(Int64.random(in: 0...150, using: &random)), a: configuration(), z: configuration())
    var sent = [Sent(), Sent()]
    var number: UInt32 = 0
    var active = CarrierID(1)
    for _ in 0..<Int.random(in: 10...40, using: &random) {
      let side = Int.random(in: 0...1, using: &random)
      switch Int.random(in: 0..<16, using: &random) {
      case 0...6:
        for _ in 0..<Int.random(in: 1...20, using: &random) {
          let stream = Int.random(in: 0..<5, using: &random)
          let text = Self.text(&number, upTo: 40_000, &random)
          let limits = stream == 4 ? Self.limits(&random, at: duo.network.now) : .full
          let endsWrite = Bool.random(using: &random)
          let isTaken =
            side == 0
            ? duo.a.send(
              text, stream: StreamID(UInt16(stream)), protocolIdentifier: 5, isUnordered: stream == 3, endOfWrite: endsWrite,
              reliability: limits)
            : duo.z!.send(
              text, stream: StreamID(UInt16(stream)), protocolIdentifier: 5, isUnordered: stream == 3, endOfWrite: endsWrite,
              reliability: limits)
          guard isTaken else { continue }
          if stream == 4 { sent[side].mixed.append((number, limits == .full)) } else { sent[side].full[stream].append(text) }
        }
      case 7, 8:
        let ids = (0..<5).filter { _ in Bool.random(using: &random) }.map { StreamID(UInt16($0)) }
        if side == 0 { _ = duo.a.resetStreams(ids) } else { _ = duo.z!.resetStreams(ids) }
      case 9: duo.blackHole(active)
      case 10: duo.cut(active)
      case 11, 12:
        active = duo.dial(delay: .milliseconds(Int64.random(in: 0...150, using: &random)))
        duo.move(to: active)
      case 13: duo.z?.announce(Bool.random(using: &random) ? Duo.z4 : Duo.z3, at: duo.network.now)
      case 14: _ = side == 0 ? duo.a.askToReset([StreamID(2)]) : duo.z!.askToReset([StreamID(2)])
      default: duo.network.jump(by: .milliseconds(Int64.random(in: 0...20_000, using: &random)))
      }
      duo.run(for: .milliseconds(Int64.random(in: 0...400, using: &random)))
    }
    active = duo.dial()
    duo.move(to: active)
    duo.run(for: .seconds(60.0))
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    sent[0].agrees(with: duo.effectsOfZ, "seed \(seed), from A")
    sent[1].agrees(with: duo.effectsOfA, "seed \(seed), from Z")
    #expect(duo.a.unacknowledged == 0 && duo.z!.unacknowledged == 0, "seed \(seed)")
    #expect(duo.a.statistics.duplicatesReceived == 0 && duo.z!.statistics.duplicatesReceived == 0, "seed \(seed)")
  }
}
