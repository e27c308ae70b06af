import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

@Suite("Many associations on one port")
struct ManyAssociationsTests {
  @Test("an idle one is small: 10,000 of them are not a machine's memory")
  func size() {
    // 2.8 KB were measured with its key, its carrier and its addresses; those are all that it has beside this.
    #expect(MemoryLayout<TestAssociation>.size <= 2_048)
    let duo = Duo.established()
    #expect(duo.a.streamsKept == 0 && duo.a.unacknowledged == 0)
  }

  @Test("each is looked after when its own time comes, among a thousand, and the dead ones end")
  func deadlines() throws {
    var duo = DatagramDuo()
    var random = SeededGenerator(seed: 5)
    var ids: [AssociationID] = []
    for number in 0..<1_000 {
      let local = IPAddress.v4(0x0a09_0000 + UInt32(number))
      ids.append(duo.a.connect(DatagramDuo.route(local, DatagramDuo.z3), at: duo.network.now))
      duo.run(for: .milliseconds(Int64.random(in: 0...3, using: &random)))
    }
    duo.run(for: .seconds(3.0))
    #expect(duo.z.associations.count == 1_000 && ids.allSatisfy { duo.a.association($0)?.state == .established })
    // Every third client goes silent: nothing reaches it, nothing comes from it.
    for number in stride(from: 0, to: 1_000, by: 3) { duo.dead.insert(.v4(0x0a09_0000 + UInt32(number))) }
    duo.run(for: .seconds(30.0))
    let first = try #require(duo.a.deadline)
    #expect(first > duo.network.now - .milliseconds(1 as Int64))
    // Association.Max.Retrans HEARTBEATs without an answer: 30 s and an RTO that doubles up to a minute, each.
    duo.run(for: .seconds(1_000.0))
    #expect(duo.z.associations.count == 666 && duo.a.associations.count == 666)
    #expect(duo.z.associations.allSatisfy { duo.z.association($0)?.state == .established })
  }
}
