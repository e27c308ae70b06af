import Control
import Testing
import Vocabulary

@Suite("GO by way of the agent")
struct GoThroughAgentTests {
  func passedOn(_ effects: [HandoverEffect]) -> [GoToken] {
    effects.compactMap { if case .goThroughAgent(let token, "vm-7") = $0 { token } else { nil } }
  }

  func went() -> HandoverBench {
    var bench = HandoverBench(clients: ["one", "two"])
    bench.source(.migration(.active), .stopped)
    bench.destination(.migration(.active), .resumed, .guest(.running))
    return bench
  }

  @Test("comes behind the clients' own, once, with the direct path")
  func once() {
    var bench = went()
    #expect(bench.gos.count == 2)
    let tokens = passedOn(bench.effects)
    #expect(tokens.map(\.path) == [.direct])
    #expect(tokens.first?.epoch == 7 && tokens.first?.agent == HandoverBench.destination.agent)
    bench.pass(.seconds(3 as Int64))
    #expect(
      passedOn(bench.effects).count == 1,
      "GOs are sent again to clients, which may have lost their link; the agent has it from its registration")
  }

  @Test("comes again when the agent registers while somebody has not moved, and not after")
  func again() {
    var bench = went()
    bench.moved("one")
    bench.machine.joinAgent()
    bench.drain()
    #expect(passedOn(bench.effects).count == 2)
    bench.moved("two")
    bench.machine.joinAgent()
    bench.drain()
    #expect(passedOn(bench.effects).count == 2)
  }

  @Test("does not come without clients")
  func nobody() {
    var bench = HandoverBench(clients: [])
    bench.source(.migration(.active), .stopped)
    bench.destination(.migration(.active), .resumed, .guest(.running))
    #expect(bench.machine.hasGone)
    #expect(passedOn(bench.effects).isEmpty)
  }
}

@Suite("Where a machine certainly runs")
struct CertainHomeTests {
  static let places = [HandoverBench.source, HandoverBench.destination]

  func tracker(_ source: HypervisorEvent..., destination: HypervisorEvent...) -> MachineTracker {
    var tracker = MachineTracker(machine: "vm", places: Self.places, lastEpoch: 1_000)
    for event in source { tracker.receive(HypervisorNotice(site: "center1", event: event), at: .zero) }
    for event in destination { tracker.receive(HypervisorNotice(site: "center2", event: event), at: .zero) }
    return tracker
  }

  @Test("its hypervisor says so, and the other one that it does not, or has ended")
  func certain() {
    #expect(tracker(.connected, .guest(.running), destination: .connected, .guest(.incoming)).certainHome == "center1")
    #expect(tracker(.gone(reason: "down"), destination: .connected, .guest(.running)).certainHome == "center2")
    #expect(tracker(.connected, .guest(.halted("shutdown")), destination: .connected, .guest(.running)).certainHome == "center2")
  }

  @Test("a hypervisor that cannot be asked, or two that run it, leave doubt")
  func doubt() {
    #expect(tracker(.connected, .guest(.running), destination: .lost(reason: "?")).certainHome == nil)
    #expect(tracker(.connected, .guest(.running), destination: .connected, .guest(.running)).certainHome == nil)
    #expect(tracker(.connected, .guest(.unknown("odd")), destination: .connected, .guest(.running)).certainHome == nil)
  }

  @Test("epochs without a migration grow by one, and keep step with the clock")
  func epochs() {
    var tracker = tracker(destination: .connected)
    #expect(tracker.beginEpoch(atLeast: 900) == 1_001)
    #expect(tracker.beginEpoch(atLeast: 2_000) == 2_000)
    #expect(tracker.beginEpoch(atLeast: 2_000) == 2_001)
  }
}
