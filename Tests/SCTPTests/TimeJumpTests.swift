import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

@Suite("A clock that jumps")
struct TimeJumpTests {
  @Test("a machine that stood still for longer than a session lives without a carrier gives its client the time again, and once more only")
  func withoutCarrier() {
    var duo = Duo.established()
    let lifetime = Duo.configuration().lifetimeWithoutCarrier
    duo.cut(CarrierID(1))
    duo.run(for: .milliseconds(100 as Int64))
    var now = duo.network.now + .seconds(100_000 as Int64)
    duo.z?.handleDeadline(at: now)
    #expect(duo.z?.state == .established)
    now = now + lifetime
    duo.z?.handleDeadline(at: now)
    #expect(duo.z?.state == .closed, "its client had all the time that it is given")
  }

  @Test("a machine that stood still while its carrier stood does not call its client silent")
  func silence() {
    var duo = Duo.established()
    duo.run(for: .seconds(2.0))
    duo.z?.handleDeadline(at: duo.network.now + .seconds(5_000 as Int64))
    while let effect = duo.z?.nextEffect(at: duo.network.now) {
      if case .carrierSilent = effect { Issue.record("a verdict without a HEARTBEAT after the jump") }
    }
  }
}

@Suite("Both ends move")
struct BothEndsTests {
  @Test(
    "the server announces and the client moves from a new address, and both requests cross: both are answered, and no message is lost",
    arguments: [0, 3, 10])
  func crossing(delay: Int64) {
    var duo = Duo.established(delay: .milliseconds(50 as Int64))
    for number in 0..<50 { _ = duo.z!.send(message(5_000, UInt8(number)), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    for number in 0..<50 { _ = duo.a.send(message(5_000, UInt8(number)), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) }
    duo.run(for: .milliseconds(60 as Int64))
    duo.z?.announce(Duo.z4, at: duo.network.now)
    duo.run(for: .milliseconds(delay))
    let second = duo.dial(delay: .milliseconds(20 as Int64))
    duo.a.move(to: second, localAddress: IPAddress("10.0.9.9")!, peerAddress: Duo.z4, at: duo.network.now)
    duo.run(for: .seconds(5.0))
    #expect(Duo.messages(duo.effectsOfA).map { $0.text } == (0..<50).map { message(5_000, UInt8($0)) })
    #expect(Duo.messages(duo.effectsOfZ).map { $0.text } == (0..<50).map { message(5_000, UInt8($0)) })
    #expect(duo.z?.peerAddresses.contains(IPAddress("10.0.9.9")!) == true)
    #expect(duo.effectsOfZ.contains { if case .announced(Duo.z4) = $0 { true } else { false } })
    #expect(duo.a.activeCarrier == second && duo.z?.activeCarrier == second)
  }
}
