import NIOCore
import SCTP
import Testing
import Vocabulary

@Suite("The address that data is wanted at, on datagrams")
struct PreferredAddressTests {
  static func data(of side: DatagramDuo.Side, in duo: DatagramDuo, from index: Int) -> [IPAddress] {
    duo.trace[index...].filter { $0.from == side && chunkTypes($0.packet).contains(0) }.map(\.route.remote.address)
  }

  @Test("data goes there when its path has been confirmed, and not before (RFC 5061 section 5.4)")
  func waits() {
    var duo = DatagramDuo.established()
    let now = duo.network.now
    duo.dead = [DatagramDuo.z4]
    duo.z.with(duo.associationOfZ!) { $0.announce(DatagramDuo.z4, at: now) }
    duo.run(for: .seconds(1.0))
    duo.a.with(duo.associationOfA!) { $0.prefer(DatagramDuo.z4) }
    var index = duo.trace.count
    duo.send(.a, message(100))
    duo.run(for: .seconds(1.0))
    #expect(Self.data(of: .a, in: duo, from: index) == [DatagramDuo.z3])
    duo.dead = []
    #expect(duo.run(atMost: .seconds(20.0)) { $0.a.association($0.associationOfA!)?.activeCarrier == CarrierID(2) })
    index = duo.trace.count
    duo.send(.a, message(100))
    duo.run(for: .seconds(1.0))
    #expect(Self.data(of: .a, in: duo, from: index) == [DatagramDuo.z4])
  }

  @Test("a move is complete when the peer says so on the old path, as usrsctp does")
  func answeredElsewhere() throws {
    var duo = DatagramDuo.established()
    let answers = Box([ByteBuffer]())
    duo.tamper = { side, packet in
      guard chunkTypes(packet).contains(0x80) else { return packet }
      answers.value.append(packet)
      return nil
    }
    duo.a.move(duo.associationOfA!, to: DatagramDuo.route(DatagramDuo.a2, DatagramDuo.z3), at: duo.network.now)
    duo.run(for: .milliseconds(200 as Int64))
    duo.send(.a, message(100))
    duo.run(for: .milliseconds(200 as Int64))
    #expect(Duo.messages(duo.effectsOfZ).isEmpty)
    duo.a.receive(try #require(answers.value.first), on: DatagramDuo.route(DatagramDuo.a1, DatagramDuo.z3), at: duo.network.now)
    duo.run(for: .seconds(1.0))
    #expect(duo.effectsOfA.contains { if case .moved = $0 { true } else { false } })
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("a move to a path that was asked in vain before asks it anew, at once")
  func askedInVain() {
    var duo = DatagramDuo.established()
    duo.dead = [DatagramDuo.a2]
    let route = DatagramDuo.route(DatagramDuo.a2, DatagramDuo.z3)
    duo.a.addPath(route, to: duo.associationOfA!, at: duo.network.now)
    duo.run(for: .seconds(20.0))
    duo.dead = []
    duo.a.move(duo.associationOfA!, to: route, at: duo.network.now)
    duo.send(.a, message(100))
    duo.run(for: .milliseconds(200 as Int64))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("our withdrawn address is a path until the peer has said yes, and none afterwards; the one in use stays")
  func withdrawn() {
    var duo = DatagramDuo.established()
    let old = DatagramDuo.route(DatagramDuo.a1, DatagramDuo.z3)
    duo.a.addPath(DatagramDuo.route(DatagramDuo.a2, DatagramDuo.z3), to: duo.associationOfA!, at: duo.network.now)
    let now = duo.network.now
    duo.a.with(duo.associationOfA!) { $0.announce(DatagramDuo.a2, at: now) }
    duo.run(for: .seconds(2.0))
    duo.a.with(duo.associationOfA!) { $0.withdraw(DatagramDuo.a1, at: now) }
    duo.run(for: .seconds(2.0))
    #expect(duo.a.routes(of: duo.associationOfA!).contains(old))
    duo.a.with(duo.associationOfA!) { $0.withdraw(DatagramDuo.a2, at: now) }
    duo.run(for: .seconds(2.0))
    #expect(duo.a.routes(of: duo.associationOfA!) == [old])
  }
}
