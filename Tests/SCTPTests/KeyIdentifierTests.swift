import NIOCore
import SCTP
import Testing
import Vocabulary

@Suite("The number of the endpoint key")
struct KeyIdentifierTests {
  static func configuration(_ identifier: UInt16, key: [UInt8] = Array("the same key on both sides".utf8)) -> AssociationConfiguration {
    var configuration = DatagramDuo.configuration()
    configuration.endpointKey = key
    configuration.endpointKeyIdentifier = identifier
    return configuration
  }

  @Test("stands in every AUTH chunk (RFC 4895 section 4.1)")
  func stands() {
    let duo = DatagramDuo.established(a: Self.configuration(7), z: Self.configuration(7))
    let numbers = duo.trace.compactMap { entry -> UInt16? in
      entry.packet.getInteger(at: 12, as: UInt8.self) == 15 ? entry.packet.getInteger(at: 16) : nil
    }
    #expect(!numbers.isEmpty)
    #expect(numbers.allSatisfy { $0 == 7 })
  }

  @Test("must be the same on both sides, though the key is", arguments: [(0, 7), (7, 0), (7, 8)] as [(UInt16, UInt16)])
  func differs(a: UInt16, z: UInt16) {
    var duo = DatagramDuo(a: Self.configuration(a), z: Self.configuration(z))
    duo.connect()
    duo.run(for: .seconds(5.0))
    #expect(duo.z.associations.isEmpty)
    #expect(Duo.failure(duo.effectsOfA) != nil)
  }

  @Test("0 with an empty key, which a peer has who was given none, opens nothing where there is a key")
  func empty() {
    var duo = DatagramDuo(a: Self.configuration(0, key: []), z: Self.configuration(7))
    duo.connect()
    duo.run(for: .seconds(5.0))
    #expect(duo.z.associations.isEmpty)
    #expect(Duo.failure(duo.effectsOfA) != nil)
  }
}
