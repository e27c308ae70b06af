import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

/// What an end was told of resets: direction and streams.
func resets(_ effects: [Effect]) -> [(direction: StreamDirection, streams: [UInt16])] {
  effects.compactMap { if case .streamsReset(let direction, let streams) = $0 { (direction, streams.map(\.value)) } else { nil } }
}

func streams(_ numbers: UInt16...) -> [StreamID] { numbers.map { StreamID($0) } }

/// The SSNs of the DATA chunks of a stream, in the order in which they were sent.
func sequenceNumbers(_ packets: [ByteBuffer], stream: UInt16) -> [UInt16] {
  packets.flatMap(rawChunks).filter { $0.type == 0 && $0.integer(at: 4) == stream }.compactMap { $0.integer(at: 6) }
}

@Suite("Streams that begin anew")
struct StreamResetTests {
  @Test("a reset comes after everything that was sent on the stream, and the next message is number zero again")
  func outgoing() {
    var duo = Duo.established()
    for number in 0..<5 { _ = duo.a.send(message(100, UInt8(number)), stream: StreamID(3), protocolIdentifier: 1, endOfWrite: false) }
    let isBegun = duo.a.resetStreams(streams(3, 9))
    let isRefused = !duo.a.send(message(1), stream: StreamID(3), protocolIdentifier: 1, endOfWrite: true)
    #expect(isBegun && isRefused)
    duo.run(for: .seconds(1.0))
    #expect(resets(duo.effectsOfA).map(\.streams) == [[9], [3]] && resets(duo.effectsOfA).allSatisfy { $0.direction == .outgoing })
    #expect(resets(duo.effectsOfZ).map(\.streams) == [[9], [3]] && resets(duo.effectsOfZ).allSatisfy { $0.direction == .incoming })
    let order = duo.effectsOfZ.compactMap { effect -> String? in
      if case .deliver = effect { return "message" }
      if case .streamsReset(_, let streams) = effect, streams.first == StreamID(3) { return "reset" }
      return nil
    }
    #expect(order == Array(repeating: "message", count: 5) + ["reset"])
    #expect(duo.effectsOfA.contains { if case .sendSpace = $0 { true } else { false } })
    let isTaken = duo.a.send(message(7), stream: StreamID(3), protocolIdentifier: 1, endOfWrite: true)
    duo.run(for: .seconds(1.0))
    #expect(isTaken && Duo.messages(duo.effectsOfZ).count == 6)
    #expect(sequenceNumbers(duo.trace.filter { $0.from == .a }.map(\.packet), stream: 3) == [0, 1, 2, 3, 4, 0])
  }

  @Test("the peer is asked to reset its direction, and answers with a reset of its own")
  func incoming() {
    var duo = Duo.established()
    _ = duo.z!.send(message(100), stream: StreamID(5), protocolIdentifier: 1, endOfWrite: true)
    duo.run(for: .seconds(1.0))
    let isAsked = duo.a.askToReset(streams(5))
    #expect(isAsked)
    duo.run(for: .seconds(1.0))
    #expect(resets(duo.effectsOfA).map(\.direction) == [.incoming] && resets(duo.effectsOfZ).map(\.direction) == [.outgoing])
    // A second request shows that the first one is over.
    let isAskedAgain = duo.a.askToReset(streams(6))
    #expect(isAskedAgain)
    duo.run(for: .seconds(1.0))
    #expect(resets(duo.effectsOfA).map(\.streams) == [[5], [6]])
  }

  @Test("streams are added in both directions, up to 65,535")
  func add() {
    var few = Duo.configuration()
    few.outboundStreams = 10
    few.inboundStreams = 20
    var duo = Duo.established(a: few)
    #expect(duo.a.peerInboundStreams == 10 && duo.z?.peerInboundStreams == 20)
    let isAsked = duo.a.addStreams(5, .outgoing) && duo.a.addStreams(7, .incoming)
    #expect(isAsked)
    duo.run(for: .seconds(1.0))
    #expect(duo.a.peerInboundStreams == 15 && duo.z?.inboundStreams == 15)
    #expect(duo.a.inboundStreams == 27 && duo.z?.peerInboundStreams == 27)
    let isTooMany = !duo.a.addStreams(65_530, .outgoing)
    #expect(isTooMany)
  }

  @Test("a peer without RE-CONFIG is not asked")
  func without() {
    var old = Duo.configuration()
    old.features.streamReset = false
    var duo = Duo.established(z: old)
    let isAsked = duo.a.resetStreams(streams(1)) || duo.a.addStreams(1, .outgoing) || duo.a.askToReset(streams(1))
    #expect(!isAsked)
    duo.run(for: .seconds(1.0))
    #expect(duo.trace.allSatisfy { !chunkTypes($0.packet).contains(0x82) })
  }

  @Test("a request whose carrier dies goes out again on the next one, byte for byte, and is carried out once", arguments: [true, false])
  func carrierDies(answerIsLost: Bool) throws {
    var duo = Duo.established(delay: .milliseconds(50 as Int64))
    _ = duo.a.send(message(30_000), stream: StreamID(1), protocolIdentifier: 1, endOfWrite: false)
    _ = duo.a.resetStreams(streams(1))
    duo.run(for: .milliseconds(Int64(answerIsLost ? 70 : 20)))
    duo.blackHole(CarrierID(1))
    let second = duo.dial()
    duo.move(to: second)
    duo.run(for: .seconds(2.0))
    #expect(resets(duo.effectsOfA).map(\.streams) == [[1]])
    #expect(resets(duo.effectsOfZ).map(\.streams) == [[1]])
    let requests = duo.trace.filter { $0.from == .a }.flatMap { rawChunks($0.packet) }.filter { $0.type == 0x82 }.map(\.value)
    #expect(requests.count == 2 && requests.allSatisfy { $0 == requests[0] })
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("many streams are reset in batches that fit the path")
  func batches() {
    var duo = DatagramDuo.established()
    let all = (0..<5_000).map { StreamID(UInt16($0)) }
    let isTaken = duo.a.with(duo.associationOfA!) { $0.resetStreams(all) }
    #expect(isTaken == true)
    duo.run(for: .seconds(10.0))
    #expect(resets(duo.effectsOfA).flatMap(\.streams).sorted() == all.map(\.value))
    #expect(resets(duo.effectsOfZ).count < 15)
    #expect(duo.trace.allSatisfy { $0.packet.readableBytes <= 1_252 })
  }

  @Test("a reset waits for DATA that was lost before it, says so, and is answered when it has come")
  func deferred() {
    var duo = DatagramDuo.established()
    let isFirst = Box(true)
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(0), isFirst.value else { return packet }
      isFirst.value = false
      return nil
    }
    duo.send(.a, message(100, 1), stream: 4)
    duo.run(for: .milliseconds(1 as Int64))
    duo.a.with(duo.associationOfA!) { _ = $0.resetStreams(streams(4)) }
    duo.run(for: .milliseconds(100 as Int64))
    #expect(resets(duo.effectsOfZ).isEmpty)
    duo.run(for: .seconds(10.0))
    #expect(resets(duo.effectsOfA).map(\.streams) == [[4]] && resets(duo.effectsOfZ).map(\.streams) == [[4]])
    let results = duo.trace.filter { $0.from == .z }.flatMap { rawChunks($0.packet) }.filter { $0.type == 0x82 }
      .compactMap { $0.integer(at: 8, as: UInt32.self) }
    #expect(results.first == 6 && results.last == 1)
    duo.send(.a, message(100, 2), stream: 4)
    duo.run(for: .seconds(3.0))
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == [message(100, 1), message(100, 2)])
    #expect(duo.stateOfA == .established)
  }

  @Test("a lost request or answer is said again, and no reset is done twice", arguments: 0..<40)
  func lossy(seed: Int) {
    var random = SeededGenerator(seed: UInt64(seed))
    var duo = DatagramDuo.established(seed: UInt64(seed))
    duo.faults = Faults(loss: 0.2, duplication: 0.1, corruption: 0.02, reordering: 0.3)
    var sent: [[ByteBuffer]] = [[], []]
    var number: UInt32 = 0
    for _ in 0..<30 {
      for side in 0...1 {
        for _ in 0..<Int.random(in: 0...4, using: &random) {
          number += 1
          let text = ByteBuffer(integer: number)
          if duo.send(side == 0 ? .a : .z, text, stream: 2) { sent[side].append(text) }
        }
      }
      if Bool.random(using: &random) { duo.a.with(duo.associationOfA!) { _ = $0.resetStreams(streams(2)) } }
      if Bool.random(using: &random) { duo.z.with(duo.associationOfZ!) { _ = $0.resetStreams(streams(2)) } }
      if Int.random(in: 0..<6, using: &random) == 0 { duo.a.with(duo.associationOfA!) { _ = $0.askToReset(streams(2)) } }
      duo.run(for: .milliseconds(Int64.random(in: 0...400, using: &random)))
    }
    duo.faults = Faults()
    duo.run(for: .seconds(300.0))
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil, "seed \(seed)")
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == sent[0], "seed \(seed)")
    #expect(Duo.messages(duo.effectsOfA).map(\.text) == sent[1], "seed \(seed)")
    for (one, other) in [(duo.effectsOfA, duo.effectsOfZ), (duo.effectsOfZ, duo.effectsOfA)] {
      #expect(
        resets(one).filter { $0.direction == .outgoing }.count == resets(other).filter { $0.direction == .incoming }.count, "seed \(seed)")
    }
  }

  @Test("a request for a reset of TSNs, an unknown one, and one out of turn are answered")
  func answered() throws {
    var duo = Duo.established()
    let line = duo.lines[CarrierID(1)]!
    let data = duo.trace.last { $0.from == .a }!.packet
    let initiation = try #require(rawChunks(duo.trace[0].packet).first)
    let first = try #require(initiation.integer(at: 12, as: UInt32.self))
    var results: [UInt32] = []
    for (type, serial) in [(15, first), (19, first + 1), (15, first + 7), (15, first)] as [(UInt16, UInt32)] {
      duo.trace.removeAll()
      let request = RawChunk(0x82) { $0.writeRawParameter(type) { $0.writeInteger(serial) } }
      duo.receiveAtZ(rawPacket(like: data, [request]), on: line)
      duo.run(for: .milliseconds(100 as Int64))
      results += duo.trace.filter { $0.from == .z }.flatMap { rawChunks($0.packet) }.filter { $0.type == 0x82 }
        .compactMap { $0.integer(at: 8, as: UInt32.self) }
    }
    #expect(results == [2, 2, 5, 2])
    #expect(duo.z?.state == .established)
  }

  @Test("a stream that the peer does not have is refused, by name")
  func wrongStream() throws {
    var few = Duo.configuration()
    few.inboundStreams = 10
    var duo = Duo.established(z: few)
    let line = duo.lines[CarrierID(1)]!
    let like = duo.trace.last { $0.from == .a }!.packet
    let first = try #require(rawChunks(duo.trace[0].packet).first?.integer(at: 12, as: UInt32.self))
    duo.trace.removeAll()
    let request = RawChunk(0x82) {
      $0.writeRawParameter(13) {
        $0.writeInteger(first)
        $0.writeInteger(UInt32(0))
        $0.writeInteger(first &- 1)
        $0.writeInteger(UInt16(11))
      }
    }
    duo.receiveAtZ(rawPacket(like: like, [request]), on: line)
    duo.run(for: .milliseconds(100 as Int64))
    let answer = duo.trace.filter { $0.from == .z }.flatMap { rawChunks($0.packet) }.first { $0.type == 0x82 }
    #expect(answer?.integer(at: 8, as: UInt32.self) == 3)
  }
}
