import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

@Suite("Packet sizes that are found")
struct PathMTUTests {
  static func duo(link: Int, mtu: Int = 8_952, loss: Double = 0, seed: UInt64 = 1) -> DatagramDuo {
    var configuration = DatagramDuo.configuration()
    configuration.features.pathMTUDiscovery = true
    var duo = DatagramDuo(seed: seed, mtu: mtu, a: configuration, z: configuration)
    duo.linkMTU = link
    duo.faults.loss = loss
    duo.connect()
    return duo
  }

  static func size(_ effects: [Effect]) -> Int? {
    effects.compactMap { if case .packetSizeChanged(_, let octets) = $0 { octets } else { nil } }.last
  }

  @Test(
    "the largest size that the network carries whole is found, to 16 octets", arguments: [1_200, 1_252, 1_452, 1_472, 4_000, 8_951, 8_952])
  func search(link: Int) throws {
    var duo = Self.duo(link: link)
    duo.run(for: .seconds(60.0))
    let found = Self.size(duo.effectsOfA) ?? 1_200
    #expect(found <= link && found > link - 24, "\(found)")
    duo.trace.removeAll()
    duo.send(.a, message(100_000))
    duo.run(for: .seconds(20.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
    let largest = try #require(duo.trace.filter { !TestEndpoint.isProbe($0.packet) }.map(\.packet.readableBytes).max())
    #expect(largest <= link && largest > found - 8)
  }

  @Test("lost probes cost no window, no error, and rarely the right size", arguments: 0..<10)
  func lossy(seed: Int) {
    var duo = Self.duo(link: 1_452, loss: 0.2, seed: UInt64(seed))
    duo.run(for: .seconds(200.0))
    duo.faults.loss = 0
    duo.run(for: .seconds(700.0))
    #expect(duo.stateOfA == .established)
    #expect((Self.size(duo.effectsOfA) ?? 0) > 1_428)
  }

  @Test("when larger packets begin to vanish the base size is used, and the search begins again")
  func blackHole() {
    var duo = Self.duo(link: 1_452)
    duo.run(for: .seconds(30.0))
    duo.linkMTU = 1_300
    // Data of before is cut by IP, as RFC 9260 section 7.3 has it; here only what is on its way when nothing is.
    duo.cutsNothing = true
    duo.send(.a, message(1_000, 1))
    duo.run(for: .seconds(1.0))
    duo.send(.a, message(20_000, 2))
    duo.run(for: .seconds(4.0))
    #expect(Self.size(duo.effectsOfA) == 1_200)
    duo.cutsNothing = false
    duo.run(for: .seconds(60.0))
    #expect(Duo.messages(duo.effectsOfZ).map(\.text) == [message(1_000, 1), message(20_000, 2)])
    let found = Self.size(duo.effectsOfA) ?? 0
    #expect(found <= 1_300 && found > 1_276)
  }

  @Test("a path that does not even carry the base size gets the least one")
  func least() {
    var duo = Self.duo(link: 700)
    duo.cutsNothing = true
    duo.run(for: .seconds(30.0))
    #expect(Self.size(duo.effectsOfA) == 548)
    duo.send(.a, message(5_000))
    duo.run(for: .seconds(10.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("a path that has failed says nothing of the size that another one carries")
  func failed() throws {
    var (a, z) = (DatagramDuo.configuration(), DatagramDuo.configuration(addresses: [DatagramDuo.z3, DatagramDuo.z4]))
    a.features.pathMTUDiscovery = true
    z.features.pathMTUDiscovery = true
    var duo = DatagramDuo(mtu: 1_452, a: a, z: z)
    duo.connect()
    duo.run(for: .seconds(30.0))
    duo.dead = [DatagramDuo.z3]
    for _ in 0..<30 {
      duo.send(.a, message(2_000))
      duo.run(for: .seconds(10.0))
    }
    #expect(duo.a.association(duo.associationOfA!)?.status(of: CarrierID(1)) == .failed)
    duo.trace.removeAll()
    duo.send(.a, message(20_000))
    duo.run(for: .seconds(10.0))
    let sizes = duo.trace.filter { $0.from == .a && $0.route.remote.address == DatagramDuo.z4 }.map(\.packet.readableBytes)
    #expect(try #require(sizes.max()) > 1_428)
  }

  @Test("after ten minutes a larger size is tried again")
  func raise() {
    var duo = Self.duo(link: 1_252)
    duo.run(for: .seconds(60.0))
    duo.linkMTU = 1_452
    duo.run(for: .seconds(700.0))
    #expect((Self.size(duo.effectsOfA) ?? 0) > 1_428)
  }
}
