import Control
import Foundation
import TestSupport
import Testing
import Vocabulary

/// The JSON of docs/wire/control.md, letter by letter: nodes and controllers of different versions meet.
@Suite("The JSON of the control messages")
struct MessageTests {
  static let agent = Endpoint("10.2.0.4:7600")!
  static let accelerated = PathChoice.accelerated(entrance: Endpoint("10.0.0.5:8080")!, accelerators: ["a", "b"])

  static let orders: [(NodeOrder, String)] = [
    (
      .prepare(migration: "vm-1", machine: "vm", agent: agent, path: .direct),
      #"{"prepare":{"agent":"10.2.0.4:7600","machine":"vm","migration":"vm-1","path":{"direct":{}}}}"#
    ),
    (.freeze(migration: "vm-1", machine: "vm"), #"{"freeze":{"machine":"vm","migration":"vm-1"}}"#),
    (
      .go(migration: "vm-1", token: GoToken(machine: "vm", epoch: 7, agent: agent, path: accelerated, expires: 1_800_000_000, mac: "00ff")),
      #"{"go":{"migration":"vm-1","token":{"agent":"10.2.0.4:7600","epoch":7,"expires":1800000000,"mac":"00ff","machine":"vm","#
        + #""path":{"accelerated":{"accelerators":["a","b"],"entrance":"10.0.0.5:8080"}}}}}"#
    ),
    (
      .rollBack(migration: "vm-1", machine: "vm", agent: agent),
      #"{"rollBack":{"agent":"10.2.0.4:7600","machine":"vm","migration":"vm-1"}}"#
    ),
    (.fence(migration: "vm-1", machine: "vm", agent: agent), #"{"fence":{"agent":"10.2.0.4:7600","machine":"vm","migration":"vm-1"}}"#),
    (
      .expect(agent: Endpoint("10.2.0.4:7600")!, holdMilliseconds: 6_000),
      #"{"expect":{"agent":"10.2.0.4:7600","holdMilliseconds":6000}}"#
    ),
    (
      .arrived(agent: Endpoint("10.2.0.4:7600")!), #"{"arrived":{"agent":"10.2.0.4:7600"}}"#
    ),
    (
      .withdrawn(agent: Endpoint("10.2.0.4:7600")!), #"{"withdrawn":{"agent":"10.2.0.4:7600"}}"#
    ),
    (
      .warm(peer: "b", rate: .megabitsPerSecond(100), roundTripMilliseconds: 300.5, holdMilliseconds: 6_000),
      #"{"warm":{"holdMilliseconds":6000,"peer":"b","rate":100000000,"roundTripMilliseconds":300.5}}"#
    ),
    (
      .peers(map: [
        PeerPlace(node: "b", tunnel: Endpoint("10.2.0.5:7700")!, prefixes: [IPPrefix("10.2.0.0/24")!, IPPrefix("2001:db8::/32")!])
      ]),
      #"{"peers":{"map":[{"node":"b","prefixes":["10.2.0.0\/24","2001:db8::\/32"],"tunnel":"10.2.0.5:7700"}]}}"#
    ),
    (
      .fill(peer: "b", service: IPAddress("10.1.0.3")!, holdMilliseconds: 6_000),
      #"{"fill":{"holdMilliseconds":6000,"peer":"b","service":"10.1.0.3"}}"#
    ),
    (
      .probe(targets: [ProbeTarget(site: "center2", address: Endpoint("[2001:db8::1]:7900")!, intervalMilliseconds: 1_000)]),
      #"{"probe":{"targets":[{"address":"[2001:db8::1]:7900","intervalMilliseconds":1000,"site":"center2"}]}}"#
    ),
  ]

  static let reports: [(NodeReport, String)] = [
    (
      .measured(site: "center2", roundTripMilliseconds: 300.25, rateMegabitsPerSecond: 98.5),
      #"{"measured":{"rateMegabitsPerSecond":98.5,"roundTripMilliseconds":300.25,"site":"center2"}}"#
    ),
    (
      .measured(site: "center2", roundTripMilliseconds: 300.25, rateMegabitsPerSecond: nil),
      #"{"measured":{"roundTripMilliseconds":300.25,"site":"center2"}}"#
    ),
    (.unreachable(site: "center2", reason: "refused"), #"{"unreachable":{"reason":"refused","site":"center2"}}"#),
    (
      .announced(machine: "vm", agent: agent, sessions: 2),
      #"{"announced":{"agent":"10.2.0.4:7600","machine":"vm","sessions":2}}"#
    ),
    (
      .moved(machine: "vm", epoch: 7, goToConfirmedMilliseconds: 310.5),
      #"{"moved":{"epoch":7,"goToConfirmedMilliseconds":310.5,"machine":"vm"}}"#
    ),
    (.stuck(machine: "vm", epoch: 7, reason: "GO refused"), #"{"stuck":{"epoch":7,"machine":"vm","reason":"GO refused"}}"#),
    (.event("tunnel to b is up"), #"{"event":{"_0":"tunnel to b is up"}}"#),
  ]

  @Test("every order is written as the protocol says, and read back the same")
  func orders() throws {
    for (order, text) in Self.orders { try check(order, text) }
  }

  @Test("every report is written as the protocol says, and read back the same")
  func reports() throws {
    for (report, text) in Self.reports {
      try check(
        TimedReport(atMicroseconds: 1_764_000_000_000_001, report: report), #"{"atMicroseconds":1764000000000001,"report":"# + text + "}")
    }
  }

  @Test("a node describes itself as the protocol says, and leaves out what it has not got")
  func descriptions() throws {
    try check(
      NodeDescription(node: "vm-agent", role: .agent, machine: "vm"),
      #"{"machine":"vm","machines":[],"node":"vm-agent","role":"agent","version":"0.1.0"}"#)
    try check(
      NodeDescription(
        node: "a", role: .accelerator, site: "access", entrance: Endpoint("10.0.0.5:8080")!, tunnel: Endpoint("10.0.0.5:7700")!,
        probe: Endpoint("10.0.0.5:7900")!),
      #"{"entrance":"10.0.0.5:8080","machines":[],"node":"a","probe":"10.0.0.5:7900","role":"accelerator","site":"access","#
        + #""tunnel":"10.0.0.5:7700","version":"0.1.0"}"#
    )
  }

  private func check<T: Codable & Equatable>(_ value: T, _ text: String) throws {
    #expect(try json(value) == text)
    #expect(try JSONDecoder().decode(T.self, from: Data(text.utf8)) == value)
  }
}
