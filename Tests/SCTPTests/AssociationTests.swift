import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

func message(_ count: Int, _ octet: UInt8 = 7) -> ByteBuffer { ByteBuffer(repeating: octet, count: count) }

@Suite("The handshake")
struct HandshakeTests {
  @Test("takes four packets, and both ends are established")
  func four() {
    var duo = Duo()
    duo.run(for: .milliseconds(100 as Int64))
    #expect(duo.a.state == .established && duo.z?.state == .established)
    #expect(duo.trace.count == 4)
    #expect(duo.a.peerAddresses == [Duo.z3] && duo.z?.peerAddresses == [Duo.a1])
  }

  @Test("with another endpoint key ends at once, and says so")
  func wrongKey() {
    var duo = Duo(a: Duo.configuration(key: "a key of another installation"))
    duo.run(for: .seconds(1.0))
    #expect(duo.z == nil)
    guard case .peerAborted(let reason)? = Duo.failure(duo.effectsOfA) else {
      Issue.record("\(duo.effectsOfA)")
      return
    }
    #expect(reason.contains("endpoint keys differ"))
  }

  @Test("an INIT is sent again until T1 gives up")
  func giveUp() {
    var duo = Duo()
    duo.tamper = { _, _ in nil }
    duo.run(for: .seconds(60.0))
    #expect(Duo.failure(duo.effectsOfA) == .handshakeTimedOut)
    #expect(duo.trace.count == 1 + Duo.configuration().handshakeRetries)
  }

  @Test("a lost answer to INIT or COOKIE ECHO is only a delay", arguments: [1, 2])
  func lostAnswer(number: Int) {
    var duo = Duo()
    let count = Box(0)
    duo.tamper = { side, packet in
      if side == .a { count.value += 1 }
      return side == .a && count.value == number ? nil : packet
    }
    duo.run(for: .seconds(10.0))
    #expect(duo.a.state == .established && duo.z?.state == .established)
  }

  @Test("a stale cookie is refused")
  func staleCookie() {
    var duo = Duo()
    let held = Box<ByteBuffer?>(nil)
    duo.tamper = { side, packet in
      if side == .a, packet.getInteger(at: packet.readerIndex + 12, as: UInt8.self) == 15 {
        held.value = packet
        return nil
      }
      return packet
    }
    duo.run(for: .milliseconds(100 as Int64))
    guard let echo = held.value, let line = duo.lines[CarrierID(1)] else {
      Issue.record("no COOKIE ECHO")
      return
    }
    duo.network.jump(by: .seconds(61.0))
    duo.receiveAtZ(echo, on: line)
    #expect(duo.z == nil)
    #expect(duo.trace.last?.from == .z)
  }

  @Test("a cookie with any octet changed makes no association")
  func tamperedCookie() {
    var duo = Duo()
    duo.tamper = { side, packet in
      guard side == .z, packet.getInteger(at: packet.readerIndex + 12, as: UInt8.self) == 2 else { return packet }
      var changed = packet
      let at = packet.writerIndex - 40  // inside the cookie
      changed.setInteger(packet.getInteger(at: at, as: UInt8.self)! ^ 1, at: at)
      return rechecksummed(changed)
    }
    duo.run(for: .seconds(1.0))
    #expect(duo.z == nil && duo.a.state != .established)
  }
}

final class Box<Value>: @unchecked Sendable {  // one test's own thread alone touches it
  var value: Value
  init(_ value: Value) { self.value = value }
}

@Suite("Data")
struct DataTests {
  @Test("messages of every size arrive whole, in order, on their streams", arguments: [1, 3, 16_384, 32_724, 32_725, 100_000, 1_000_000])
  func sizes(count: Int) {
    var duo = Duo.established()
    for stream in 0..<5 {
      let up = duo.a.send(message(count, UInt8(stream)), stream: StreamID(UInt16(stream)), protocolIdentifier: 9, endOfWrite: true)
      let down = duo.z!.send(message(count, UInt8(stream + 100)), stream: StreamID(UInt16(stream)), protocolIdentifier: 9, endOfWrite: true)
      #expect(up && down)
    }
    duo.run(for: .seconds(5.0))
    let atZ = Duo.messages(duo.effectsOfZ)
    let atA = Duo.messages(duo.effectsOfA)
    #expect(atZ.map(\.stream) == [0, 1, 2, 3, 4] && atA.map(\.stream) == [0, 1, 2, 3, 4])
    for stream in 0..<5 {
      #expect(atZ[stream].text == message(count, UInt8(stream)))
      #expect(atA[stream].text == message(count, UInt8(stream + 100)))
    }
    #expect(duo.a.unacknowledged == 0 && duo.z!.unacknowledged == 0)
    #expect(duo.a.statistics.chunksRetransmitted == 0)
  }

  @Test("send refuses beyond its buffer, and tells when there is space again")
  func sendBuffer() {
    var configuration = Duo.configuration()
    configuration.sendBuffer = ByteCount(100_000)
    var duo = Duo.established(a: configuration)
    var taken = 0
    while duo.a.send(message(10_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) { taken += 1 }
    #expect(taken == 10)
    duo.run(for: .seconds(1.0))
    #expect(duo.effectsOfA.contains { if case .sendSpace = $0 { true } else { false } })
    #expect(duo.a.sendSpace == 100_000)
  }

  @Test("no DATA is packed while the carrier is not writable; control still passes")
  func writability() {
    var duo = Duo.established()
    duo.a.carrierWritable(CarrierID(1), false)
    _ = duo.a.send(message(1_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: true)
    duo.run(for: .seconds(3.0))
    #expect(Duo.messages(duo.effectsOfZ).isEmpty)
    #expect(duo.effectsOfA.contains { if case .roundTrip = $0 { true } else { false } })
    duo.a.carrierWritable(CarrierID(1), true)
    duo.run(for: .seconds(1.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("no more is in flight than the peer's window")
  func window() {
    var small = Duo.configuration()
    small.receiveWindow = ByteCount(50_000)
    var duo = Duo.established(delay: .milliseconds(100 as Int64), z: small)
    for _ in 0..<20 { _ = duo.a.send(message(10_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.trace.removeAll()
    duo.run(for: .milliseconds(90 as Int64))  // before the first SACK can be back
    #expect(duo.trace.filter { $0.from == .a }.reduce(0) { $0 + $1.packet.readableBytes } < 52_000)
    duo.run(for: .seconds(5.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 20)
  }

  @Test("a SACK comes for every second packet, and at the latest after its delay")
  func sacks() {
    var duo = Duo.established()
    _ = duo.a.send(message(100), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false)
    duo.run(for: .milliseconds(50 as Int64))
    #expect(duo.z?.statistics.sacksSent == 0)
    duo.run(for: .milliseconds(100 as Int64))
    #expect(duo.z?.statistics.sacksSent == 1)
    _ = duo.a.send(message(100), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: true)
    duo.run(for: .milliseconds(20 as Int64))
    #expect(duo.z?.statistics.sacksSent == 2)
    duo.a.carrierWritable(CarrierID(1), true)
    for _ in 0..<10 { _ = duo.a.send(message(30_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.run(for: .milliseconds(50 as Int64))
    #expect(duo.z?.statistics.sacksSent == 7)
  }
}

@Suite("The end of an association")
struct EndTests {
  @Test("shutdown delivers everything first, then both ends close")
  func shutdown() {
    var duo = Duo.established()
    for _ in 0..<50 { _ = duo.a.send(message(20_000), stream: StreamID(1), protocolIdentifier: 1, endOfWrite: false) }
    duo.a.shutdown(at: duo.network.now)
    duo.run(for: .seconds(5.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 50)
    #expect(duo.a.state == .closed && duo.z?.state == .closed)
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil)
  }

  @Test("shutdown from both ends at once closes both")
  func bothShutDown() {
    var duo = Duo.established()
    duo.a.shutdown(at: duo.network.now)
    duo.z?.shutdown(at: duo.network.now)
    duo.run(for: .seconds(5.0))
    #expect(duo.a.state == .closed && duo.z?.state == .closed)
    #expect(Duo.failure(duo.effectsOfA) == nil && Duo.failure(duo.effectsOfZ) == nil)
  }

  @Test("an abort's reason reaches the other end")
  func abort() {
    var duo = Duo.established()
    duo.z?.abort(reason: "the agent has been stopped", at: duo.network.now)
    duo.run(for: .seconds(1.0))
    #expect(Duo.failure(duo.effectsOfA) == .peerAborted("the agent has been stopped"))
    #expect(duo.a.deadline == nil && duo.z?.deadline == nil)
  }

  @Test("an association without a carrier lives for its named time, and no longer")
  func withoutCarrier() {
    var duo = Duo.established()
    duo.cut(CarrierID(1))
    duo.run(for: .seconds(599.0))
    #expect(duo.a.state == .established)
    duo.run(for: .seconds(2.0))
    #expect(Duo.failure(duo.effectsOfA) == .noCarrier)
  }

  @Test("a silent carrier is told of once its limit has passed; a frozen peer's is not; a jump of the clock is no silence")
  func silence() {
    func silent(_ duo: Duo) -> Bool { duo.effectsOfA.contains { if case .carrierSilent = $0 { true } else { false } } }
    var duo = Duo.established()
    duo.run(for: .seconds(10.0))
    #expect(!silent(duo))
    var jumped = duo
    jumped.network.jump(by: .seconds(3_600.0))
    jumped.run(for: .seconds(2.5))
    #expect(!silent(jumped))
    duo.blackHole(CarrierID(1))
    var frozen = duo
    frozen.a.suspendTimeouts()
    frozen.run(for: .seconds(30.0))
    #expect(!silent(frozen))
    duo.run(for: .seconds(5.5))
    #expect(silent(duo))
    #expect(duo.a.state == .established)
  }
}
