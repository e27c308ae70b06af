import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

let allSchedulers: [StreamScheduler] = [.firstCome, .roundRobin, .roundRobinPerPacket, .priority, .fairCapacity, .weightedFair]

/// The streams of the DATA or I-DATA chunks that one side sent, in order.
func streamsOnTheWire(_ packets: [ByteBuffer]) -> [UInt16] {
  packets.flatMap(rawChunks).filter { $0.type == 0 || $0.type == 64 }.compactMap { $0.integer(at: 4, as: UInt16.self) }
}

@Suite("Interleaved messages")
struct InterleavingTests {
  static func duo(_ scheduler: StreamScheduler = .roundRobin, seed: UInt64 = 1, window: Int? = nil) -> DatagramDuo {
    var configuration = DatagramDuo.configuration(interleaving: true, scheduler: scheduler)
    if let window { configuration.receiveWindow = ByteCount(window) }
    return DatagramDuo.established(seed: seed, a: configuration, z: configuration)
  }

  @Test("I-DATA is used when both sides offer it, and DATA otherwise", arguments: [(true, true), (true, false), (false, true)])
  func negotiation(a: Bool, z: Bool) {
    var duo = DatagramDuo.established(a: DatagramDuo.configuration(interleaving: a), z: DatagramDuo.configuration(interleaving: z))
    duo.trace.removeAll()
    duo.send(.a, message(5_000, 1), stream: 1)
    duo.send(.z, message(5_000, 2), stream: 1, isUnordered: true)
    duo.run(for: .seconds(2.0))
    let types = Set(duo.trace.flatMap { chunkTypes($0.packet) })
    #expect(types.contains(a && z ? 64 : 0) && !types.contains(a && z ? 0 : 64))
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == [message(5_000, 1)])
    #expect(Duo.messages(duo.effectsOfA).map(\.text) == [message(5_000, 2)])
  }

  @Test("fragments of messages alternate, carry MID and FSN, and the identifier stands in the first one")
  func wire() throws {
    var duo = Self.duo()
    duo.trace.removeAll()
    for stream in [1, 2] as [UInt16] { duo.send(.a, message(4_000), stream: stream) }
    duo.run(for: .seconds(2.0))
    let chunks = duo.trace.filter { $0.from == .a }.flatMap { rawChunks($0.packet) }.filter { $0.type == 64 }
    #expect(chunks.compactMap { $0.integer(at: 4, as: UInt16.self) } == [1, 2, 1, 2, 1, 2, 1, 2])
    #expect(chunks.allSatisfy { $0.integer(at: 8, as: UInt32.self) == 0 })  // MID
    #expect(chunks.map { $0.flags & 3 } == [2, 2, 0, 0, 0, 0, 1, 1])
    #expect(chunks.compactMap { $0.integer(at: 12, as: UInt32.self) } == [7, 7, 1, 1, 2, 2, 3, 3])
  }

  @Test("a small message waits for one packet of each stream that is busy, and no more", arguments: [true, false])
  func headOfLine(interleaving: Bool) throws {
    let configuration = DatagramDuo.configuration(interleaving: interleaving, scheduler: .fairCapacity)
    // 10 Mbit/s: a packet takes a millisecond.
    var duo = DatagramDuo.established(
      delay: .milliseconds(1 as Int64), rate: .megabitsPerSecond(10), a: configuration, z: configuration)
    for stream in 0..<8 as Range<UInt16> { for _ in 0..<20 { duo.send(.a, message(64_000), stream: stream) } }
    duo.run(for: .seconds(1.0))
    duo.trace.removeAll()
    duo.send(.a, message(64, 9), stream: 100)
    duo.run(for: .seconds(3.0))
    let order = streamsOnTheWire(duo.trace.filter { $0.from == .a }.map(\.packet))
    let waited = try #require(order.firstIndex(of: 100))
    // Without I-DATA it waits for the end of the message that has begun, and for one of each other stream: up to 8 x 52 packets.
    if interleaving { #expect(waited <= 8, "\(waited) chunks") } else { #expect(waited > 8) }
  }

  @Test("in a session, without I-DATA, a small message waits for one message of each flow that is busy")
  func session() throws {
    var configuration = Duo.configuration()
    configuration.scheduler = .fairCapacity
    var duo = Duo.established(a: configuration)
    duo.a.carrierWritable(CarrierID(1), false)
    duo.trace.removeAll()
    for number in 0..<100 {
      _ = duo.a.send(message(16_384), stream: StreamID(UInt16(number % 8)), protocolIdentifier: 1, endOfWrite: false)
    }
    _ = duo.a.send(message(64), stream: StreamID(100), protocolIdentifier: 1, endOfWrite: true)
    duo.a.carrierWritable(CarrierID(1), true)
    duo.run(for: .seconds(1.0))
    let order = streamsOnTheWire(duo.trace.filter { $0.from == .a }.map(\.packet))
    #expect(try #require(order.firstIndex(of: 100)) <= 8 && order.count == 101)
  }

  @Test("every scheduler delivers everything, whole and in order, with and without I-DATA", arguments: allSchedulers, [true, false])
  func schedulers(scheduler: StreamScheduler, interleaving: Bool) {
    let configuration = DatagramDuo.configuration(interleaving: interleaving, scheduler: scheduler)
    var duo = DatagramDuo.established(seed: 3, a: configuration, z: configuration)
    duo.faults = Faults(loss: 0.03, duplication: 0.03, reordering: 0.1)
    var random = SeededGenerator(seed: 8)
    for stream in 0..<6 as Range<UInt16> { duo.a.with(duo.associationOfA!) { $0.setWeight(stream + 1, of: StreamID(stream)) } }
    var sent: [[ByteBuffer]] = Array(repeating: [], count: 6)
    for number in 0..<120 {
      let stream = Int.random(in: 0..<6, using: &random)
      let text = message(Int.random(in: 1...9_000, using: &random), UInt8(number))
      if duo.send(.a, text, stream: UInt16(stream)) { sent[stream].append(text) }
    }
    let isDone = duo.run(atMost: .seconds(300.0)) { Duo.messages($0.effectsOfZ).count == 120 }
    #expect(isDone)
    for stream in 0..<6 {
      #expect(Duo.messages(duo.effectsOfZ).filter { Int($0.stream) == stream }.map(\.text) == sent[stream])
    }
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil)
  }

  /// The first chunks of streams 1, 2 and 3, each with many messages of a packet and one of them with larger ones.
  static func order(_ scheduler: StreamScheduler, sizes: [Int] = [1_000, 1_000, 1_000], weights: [UInt16] = [0, 0, 0]) -> [UInt16] {
    let configuration = DatagramDuo.configuration(scheduler: scheduler)
    var duo = DatagramDuo.established(a: configuration, z: configuration)
    duo.trace.removeAll()
    for (index, weight) in weights.enumerated() {
      duo.a.with(duo.associationOfA!) { $0.setWeight(weight, of: StreamID(UInt16(index + 1))) }
    }
    for (index, size) in sizes.enumerated() { for _ in 0..<60_000 / size { duo.send(.a, message(size), stream: UInt16(index + 1)) } }
    duo.run(for: .seconds(5.0))
    return streamsOnTheWire(duo.trace.filter { $0.from == .a }.map(\.packet))
  }

  @Test("first come, first served; in turn; the most urgent first")
  func simpleOrders() {
    #expect(Self.order(.firstCome).prefix(60) == ArraySlice(repeating: 1, count: 60))
    #expect(Self.order(.roundRobin).prefix(9) == [1, 2, 3, 1, 2, 3, 1, 2, 3])
    #expect(
      Self.order(.priority, weights: [3, 1, 2]).prefix(120) == ArraySlice(Array(repeating: 2, count: 60) + Array(repeating: 3, count: 60)))
  }

  @Test("round robin per packet fills a packet from one stream")
  func perPacket() {
    let order = Self.order(.roundRobinPerPacket, sizes: [300, 300, 300])
    #expect(order.prefix(12) == [1, 1, 1, 2, 2, 2, 3, 3, 3, 1, 1, 1])
  }

  @Test("octets are shared alike by fair capacity, and by weight by weighted fair queueing")
  func shares() {
    // Of 60 chunks of 1,000 octets and 120 of 500: as many octets at any time.
    let fair = Self.order(.fairCapacity, sizes: [1_000, 500]).prefix(60)
    let ofOne = fair.count { $0 == 1 }
    #expect((18...22).contains(ofOne), "\(ofOne)")
    let weighted = Self.order(.weightedFair, sizes: [1_000, 1_000], weights: [3, 1]).prefix(60)
    let heavy = weighted.count { $0 == 1 }
    #expect((43...47).contains(heavy), "\(heavy)")
  }

  @Test("interleaved messages larger than the peer's window do not fill it with pieces")
  func smallWindow() {
    var duo = Self.duo(window: 20_000)
    duo.faults.loss = 0.02
    for stream in 0..<10 as Range<UInt16> { for _ in 0..<3 { duo.send(.a, message(15_000, UInt8(stream)), stream: stream) } }
    let isDone = duo.run(atMost: .seconds(600.0)) { Duo.messages($0.effectsOfZ).count == 30 }
    #expect(isDone)
    #expect(Duo.failure(duo.effectsOfA) == nil, "\(duo.statisticsOfA)")
    #expect(Duo.failure(duo.effectsOfZ) == nil, "\(duo.statisticsOfZ)")
  }

  @Test("DATA where I-DATA was agreed upon ends the association")
  func wrongKind() {
    var duo = Self.duo()
    duo.tamper = { side, packet in
      guard side == .a, let chunk = rawChunks(packet).first, chunk.type == 64 else { return packet }
      return rawPacket(like: packet, [RawChunk(0, flags: 3) { $0.writeImmutableBuffer(chunk.value) }])
    }
    duo.send(.a, message(100))
    duo.run(for: .seconds(1.0))
    guard case .protocolViolation? = Duo.failure(duo.effectsOfZ) else {
      Issue.record("\(duo.effectsOfZ)")
      return
    }
  }
}
