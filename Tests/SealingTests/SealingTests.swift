import NIOCore
import Sealing
import Testing

/// The construction's vectors (docs/wire/sealing.md); they were computed by another implementation.
enum Vectors {
  static let session = SealedSessionID([UInt8](64..<80))
  static func secret(clientName: String = "client/laptop") -> SessionSecret {
    SessionSecret(
      client: [UInt8](0..<32), agent: [UInt8](32..<64), session: SealedSessionID([UInt8](64..<80)) ?? .random(), clientName: clientName,
      agentName: "agent/vm1")
  }

  static func hexadecimal(_ octets: some Sequence<UInt8>) -> String {
    octets.map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
  }

  static let frames: [(carrier: UInt32, direction: SealedDirection, number: UInt64, frame: String)] = [
    (1, .toAgent, 0, "0000000000000000721df6051dd8f6252ceb332754f77e70f85cdf932c2ff67f"),
    (1, .toClient, 0, "00000000000000000e2a8998a30f41181c218857c9b3769a313230a3b6a415d5"),
    (2, .toAgent, 0, "0000000000000000a92500b41c0953419cb6a536117bfce2a3f9dff90ac72dca"),
    (2, .toAgent, 1, "000000000000000168693b37f257a187ae5ebcbc5d39b79f0b5d817367d67523"),
    (2, .toAgent, 1 << 22, "0000000000400000ea61ab8be3f998ee70a30afd354e541939366faf6e02253b"),
  ]
}

@Suite("Sealed packets")
struct SealingTests {
  func sealed(_ text: String, by sealer: inout PacketSealer) -> ByteBuffer {
    var frame = ByteBuffer()
    sealer.seal(ByteBuffer(string: text), into: &frame)
    return frame
  }

  @Test("keys and frames agree with the vectors of another implementation")
  func vectors() {
    let secret = Vectors.secret()
    #expect(Vectors.hexadecimal(secret.associationKey) == "af352205b9c7443d1ad28086b365f6d0b1d0f3780c921a932680d18ec8291ea0")
    for vector in Vectors.frames {
      var sealer = secret.sealer(carrier: vector.carrier, vector.direction, from: vector.number)
      #expect(Vectors.hexadecimal(sealed("longhaul", by: &sealer).readableBytesView) == vector.frame)
    }
  }

  @Test("what one end seals the other opens, of every size, and each packet is longer by the overhead")
  func roundTrip() throws {
    let secret = Vectors.secret()
    var sealer = secret.sealer(carrier: 7, .toClient)
    var opener = secret.opener(carrier: 7, .toClient)
    for size in [0, 1, 12, 1_400, 32 << 10, 65_535 - Sealing.overhead] {
      let packet = ByteBuffer(bytes: (0..<size).map { UInt8(truncatingIfNeeded: $0 &* 31) })
      var frame = ByteBuffer()
      sealer.seal(packet, into: &frame)
      #expect(frame.readableBytes == size + Sealing.overhead)
      #expect(try opener.open(frame) == packet)
    }
  }

  @Test("a packet of another carrier, direction, session or name is refused")
  func separation() {
    var sealer = Vectors.secret().sealer(carrier: 2, .toAgent)
    let frame = sealed("secret", by: &sealer)
    var others = [
      Vectors.secret().opener(carrier: 3, .toAgent), Vectors.secret().opener(carrier: 2, .toClient),
      Vectors.secret(clientName: "client/other").opener(carrier: 2, .toAgent),
    ]
    for index in others.indices {
      #expect(throws: SealError.notAuthentic(0)) { try others[index].open(frame) }
    }
  }

  @Test("a packet that came twice, or lies below the window, is refused; one out of order is taken")
  func replay() throws {
    var sealer = Vectors.secret().sealer(carrier: 2, .toAgent)
    var opener = Vectors.secret().opener(carrier: 2, .toAgent)
    let frames = (0..<100).map { sealed("\($0)", by: &sealer) }
    #expect(try opener.open(frames[1]) == ByteBuffer(string: "1"))
    #expect(try opener.open(frames[0]) == ByteBuffer(string: "0"))
    #expect(throws: SealError.replayed(0)) { try opener.open(frames[0]) }
    #expect(try opener.open(frames[99]) == ByteBuffer(string: "99"))
    #expect(throws: SealError.replayed(35)) { try opener.open(frames[35]) }
    #expect(try opener.open(frames[36]) == ByteBuffer(string: "36"))
    #expect(throws: SealError.replayed(36)) { try opener.open(frames[36]) }
  }

  @Test("every flipped bit and every cut is found, and does not harm the packets that follow")
  func damage() throws {
    var sealer = Vectors.secret().sealer(carrier: 2, .toAgent)
    var opener = Vectors.secret().opener(carrier: 2, .toAgent)
    let frame = sealed("twelve octets", by: &sealer)
    for bit in 0..<(frame.readableBytes * 8) {
      var damaged = frame
      let octet = damaged.getInteger(at: bit / 8, as: UInt8.self) ?? 0
      damaged.setInteger(octet ^ (1 << UInt8(bit % 8)), at: bit / 8)
      #expect(throws: SealError.self) { try opener.open(damaged) }
    }
    for length in 0..<frame.readableBytes {
      #expect(throws: SealError.self) { try opener.open(frame.getSlice(at: 0, length: length) ?? ByteBuffer()) }
    }
    #expect(try opener.open(frame) == ByteBuffer(string: "twelve octets"))
  }

  @Test("the keys step to the next phase after the last packet of one, and never back or two steps ahead")
  func rekeying() throws {
    let secret = Vectors.secret()
    var sealer = secret.sealer(carrier: 2, .toAgent, from: Sealing.phaseLength - 2)
    var opener = secret.opener(carrier: 2, .toAgent)
    let frames = (0..<4).map { sealed("\($0)", by: &sealer) }
    for index in [0, 2, 3] { #expect(try opener.open(frames[index]) == ByteBuffer(string: "\(index)")) }
    #expect(throws: SealError.outOfPhase(Sealing.phaseLength - 1)) { try opener.open(frames[1]) }
    var later = secret.sealer(carrier: 2, .toAgent, from: 3 * Sealing.phaseLength)
    #expect(throws: SealError.outOfPhase(3 * Sealing.phaseLength)) { try opener.open(sealed("far", by: &later)) }
  }

  @Test("a forged packet of the next phase does not make the opener step")
  func forgedPhase() throws {
    let secret = Vectors.secret()
    var sealer = secret.sealer(carrier: 2, .toAgent)
    var opener = secret.opener(carrier: 2, .toAgent)
    var forged = sealed("0", by: &sealer)
    forged.setInteger(Sealing.phaseLength, at: 0)
    #expect(throws: SealError.notAuthentic(Sealing.phaseLength)) { try opener.open(forged) }
    #expect(try opener.open(sealed("1", by: &sealer)) == ByteBuffer(string: "1"))
  }

  @Test("the replay window agrees with a set of numbers on a seeded walk")
  func window() {
    var random = SystemRandomNumberGenerator()
    let seed = UInt64.random(in: 0...UInt64.max, using: &random)
    var state = seed | 1
    func next(_ bound: UInt64) -> UInt64 {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return state % bound
    }
    var window = ReplayWindow()
    var seen: Set<UInt64> = []
    var highest: UInt64 = 0
    for _ in 0..<10_000 {
      let number = max(highest, 100) - 100 + next(140)
      let isTooOld = !seen.isEmpty && number + ReplayWindow.size <= highest
      #expect(window.admits(number) == (!seen.contains(number) && !isTooOld), "seed \(seed), number \(number)")
      guard window.admits(number) else { continue }
      window.note(number)
      seen.insert(number)
      highest = max(highest, number)
    }
  }
}

@Suite("Messages of the key exchange")
struct SealingMessageTests {
  @Test("each message is read again, whole and octet by octet, and what follows it is left")
  func messages() throws {
    let session = SealedSessionID.random()
    let request = ExchangeRequest(
      .open, session: session, contribution: [UInt8](repeating: 7, count: 32), frames: ByteBuffer(string: "INIT"))
    var buffer = ByteBuffer()
    request.write(into: &buffer)
    for length in 0..<buffer.readableBytes {
      var part = buffer.getSlice(at: 0, length: length) ?? ByteBuffer()
      #expect(try ExchangeRequest.read(from: &part) == nil)
      #expect(part.readableBytes == length)
    }
    buffer.writeString("rest")
    #expect(try ExchangeRequest.read(from: &buffer) == request)
    #expect(buffer.readableBytes == 4)

    let answer = ExchangeAnswer(.refused, frames: ByteBuffer(string: "INIT ACK"))
    var answered = ByteBuffer()
    answer.write(into: &answered)
    for length in 0..<answered.readableBytes {
      var part = answered.getSlice(at: 0, length: length) ?? ByteBuffer()
      #expect(try ExchangeAnswer.read(from: &part) == nil)
    }
    #expect(try ExchangeAnswer.read(from: &answered) == answer)
  }

  @Test("frames beyond the limit are refused before they are waited for")
  func frames() {
    var buffer = ByteBuffer(string: "LHX1")
    buffer.writeRepeatingByte(1, count: 1 + 16 + 32)
    buffer.writeInteger(UInt16(Sealing.maximumExchangeFrames + 1))
    #expect(throws: SealingViolation.notAnExchange) { try ExchangeRequest.read(from: &buffer) }
  }

  @Test("another magic, purpose or verdict is refused")
  func foreign() {
    var buffer = ByteBuffer(string: String(repeating: "LHX2", count: 20))
    #expect(throws: SealingViolation.notAnExchange) { try ExchangeRequest.read(from: &buffer) }
    var purpose = ByteBuffer(string: "LHX1")
    purpose.writeRepeatingByte(9, count: 49)
    purpose.writeInteger(UInt16(0))
    #expect(throws: SealingViolation.notAnExchange) { try ExchangeRequest.read(from: &purpose) }
    var verdict = ByteBuffer(string: "LHX1")
    verdict.writeRepeatingByte(9, count: 33)
    verdict.writeInteger(UInt16(0))
    #expect(throws: SealingViolation.notAnExchange) { try ExchangeAnswer.read(from: &verdict) }
  }

  @Test("the first octets of a connection say what it is")
  func openings() throws {
    var tls = ByteBuffer(bytes: [0x16, 3, 1])
    #expect(CarrierOpening.read(from: &tls) == .exchange)
    #expect(tls.readableBytes == 3)
    var plain = ByteBuffer(bytes: [0, 60, 0x1d])
    #expect(CarrierOpening.read(from: &plain) == .open)
    var almost = ByteBuffer(string: "LHS2")
    #expect(CarrierOpening.read(from: &almost) == .open)
    let preface = SealedPreface(session: .random(), carrier: 2)
    var buffer = ByteBuffer()
    preface.write(into: &buffer)
    for length in 0..<buffer.readableBytes {
      var part = buffer.getSlice(at: 0, length: length) ?? ByteBuffer()
      #expect(CarrierOpening.read(from: &part) == nil)
    }
    buffer.writeString("x")
    #expect(CarrierOpening.read(from: &buffer) == .sealed(preface))
    #expect(buffer.readableBytes == 1)
  }
}
