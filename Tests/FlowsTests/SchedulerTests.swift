import Flows
import Testing
import Vocabulary

@Suite("The turn of flows that wait for one transport")
struct SchedulerTests {
  /// All flows always have 1,000 octets more to send; how many each has sent after so many turns.
  private func shares(_ flows: [(FlowID, FlowPriority)], turns: Int) -> [FlowID: Int] {
    var scheduler = FlowScheduler()
    var sent: [FlowID: Int] = [:]
    for (id, priority) in flows { scheduler.wait(id, priority) }
    for _ in 0..<turns {
      guard let id = scheduler.next(), let priority = flows.first(where: { $0.0 == id })?.1 else { break }
      sent[id, default: 0] += 1_000
      scheduler.passed(1_000, priority)
      scheduler.wait(id, priority)
    }
    return sent
  }

  @Test("is every flow's of a class alike")
  func alike() {
    let sent = shares([(FlowID(1), .normal), (FlowID(2), .normal), (FlowID(3), .normal)], turns: 300)
    #expect(sent.values.allSatisfy { $0 == 100_000 })
  }

  @Test("is shared by classes as their weights say, and bulk never starves")
  func weighted() {
    let sent = shares([(FlowID(1), .bulk), (FlowID(2), .normal), (FlowID(3), .interactive), (FlowID(4), .interactive)], turns: 1_000)
    #expect((90_000...110_000).contains(sent[FlowID(1)] ?? 0))
    #expect((290_000...310_000).contains(sent[FlowID(2)] ?? 0))
    #expect((290_000...310_000).contains(sent[FlowID(3)] ?? 0))
  }

  @Test("comes at once for keystrokes, however long the bulk beside them has run, and nothing is saved up while idle")
  func keystrokes() {
    var scheduler = FlowScheduler()
    for _ in 0..<1_000 {
      scheduler.wait(FlowID(1), .bulk)
      #expect(scheduler.next() == FlowID(1))
      scheduler.passed(32_768, .bulk)
    }
    scheduler.wait(FlowID(1), .bulk)
    scheduler.wait(FlowID(2), .interactive)
    #expect(scheduler.next() == FlowID(2))
    scheduler.passed(3_000_000, .interactive)
    scheduler.wait(FlowID(2), .interactive)
    #expect(scheduler.next() == FlowID(1))
  }

  @Test("comes for each of several flows that type before a download's, and the download still has its part")
  func several() {
    var scheduler = FlowScheduler()
    scheduler.wait(FlowID(1), .bulk)
    for id in 2...5 { scheduler.wait(FlowID(UInt32(id)), .interactive) }
    for id in 2...5 {
      #expect(scheduler.next() == FlowID(UInt32(id)))
      scheduler.passed(100, .interactive)
    }
    #expect(scheduler.next() == FlowID(1))
  }

  @Test("does not count what passed while nobody waited")
  func uncontended() {
    var scheduler = FlowScheduler()
    scheduler.passed(1 << 40, .normal)
    scheduler.wait(FlowID(1), .bulk)
    scheduler.wait(FlowID(2), .normal)
    var normal = 0
    for _ in 0..<400 {
      guard let id = scheduler.next() else { break }
      let priority: FlowPriority = id == FlowID(1) ? .bulk : .normal
      if priority == .normal { normal += 1 }
      scheduler.passed(1_000, priority)
      scheduler.wait(id, priority)
    }
    #expect((295...305).contains(normal), "three quarters, and it is \(normal) of 400")
  }

  @Test("is shared as other weights say where they are given")
  func otherWeights() {
    var scheduler = FlowScheduler(.init(interactive: 1, normal: 1, bulk: 3))
    scheduler.wait(FlowID(1), .bulk)
    scheduler.wait(FlowID(2), .normal)
    var bulk = 0
    for _ in 0..<400 {
      guard let id = scheduler.next() else { break }
      let priority: FlowPriority = id == FlowID(1) ? .bulk : .normal
      if priority == .bulk { bulk += 1 }
      scheduler.passed(1_000, priority)
      scheduler.wait(id, priority)
    }
    #expect((295...305).contains(bulk))
  }

  @Test("passes a flow over that is gone, and keeps the place of one that says again that it waits")
  func gone() {
    var scheduler = FlowScheduler()
    for id in 1...3 { scheduler.wait(FlowID(UInt32(id)), .normal) }
    scheduler.wait(FlowID(1), .normal)
    scheduler.remove(FlowID(2))
    #expect(scheduler.count == 2)
    #expect(scheduler.next() == FlowID(1))
    #expect(scheduler.next() == FlowID(3))
    #expect(scheduler.next() == nil)
  }
}
