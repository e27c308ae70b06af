import Control
import Testing
import Vocabulary

/// The rows of "What hypervisors say during a live migration", and what they ask for.
@Suite("One handover")
struct HandoverTests {
  // MARK: PREPARE

  @Test("PREPARE goes to the agent at once, and to a client with its path")
  func prepare() {
    var bench = HandoverBench()
    #expect(bench.orders(to: .agent) == [.prepare(migration: "vm-7", machine: "vm", agent: HandoverBench.destination.agent, path: .direct)])
    #expect(bench.effects.contains(.choosePath(client: "client")))
    #expect(bench.orders(to: .client("client")).isEmpty, "a client is told once its path is known")
    bench.choose()
    #expect(
      bench.orders(to: .client("client"))
        == [.prepare(migration: "vm-7", machine: "vm", agent: HandoverBench.destination.agent, path: HandoverBench.accelerated)])
    #expect(bench.lines.contains("path of client: through a and b: round trip 300 ms from access to center2 exceeds 50 ms"))
  }

  @Test("accelerators are kept warm every 2 s until everyone has moved, and a client is told of its path again only if that changed")
  func warm() {
    var bench = HandoverBench()
    bench.choose()
    let warm = NodeOrder.warm(peer: "b", rate: .megabitsPerSecond(100), roundTripMilliseconds: 300, holdMilliseconds: 6_000)
    let expect = NodeOrder.expect(agent: HandoverBench.destination.agent, holdMilliseconds: 6_000)
    #expect(bench.orders(to: .accelerator("a")) == [warm])
    #expect(bench.orders(to: .accelerator("b")) == [expect])
    for _ in 0..<3 {
      _ = bench.news()
      bench.pass(.seconds(2 as Int64))
      #expect(bench.news() == [.choosePath(client: "client")])
      bench.choose()
      #expect(bench.news() == [.order(expect, to: .accelerator("b")), .order(warm, to: .accelerator("a"))])
    }
    bench.choose(ClientPath(choice: .direct, reason: "direct: it became short"))
    #expect(bench.orders(to: .client("client")).count == 2)
    bench.destination(.migration(.active))
    bench.source(.stopped)
    bench.destination(.resumed, .guest(.running))
    bench.moved()
    _ = bench.news()
    bench.pass(.seconds(5 as Int64))
    #expect(!bench.news().contains(.choosePath(client: "client")))
  }

  @Test("the accelerator beside the destination hears of GO before any client, and of ROLL BACK")
  func parking() {
    var bench = HandoverBench()
    bench.choose()
    bench.destination(.migration(.active))
    bench.source(.stopped)
    _ = bench.news()
    bench.destination(.resumed, .guest(.running))
    let news = bench.news()
    let arrived = news.firstIndex(of: .order(.arrived(agent: HandoverBench.destination.agent), to: .accelerator("b")))
    let go = news.firstIndex { if case .go = $0 { true } else { false } }
    #expect(arrived != nil && go != nil && arrived! < go!)

    var other = HandoverBench()
    other.choose()
    other.source(.migration(.cancelled), .guest(.running))
    #expect(other.outcome?.result == .rolledBack)
    #expect(other.orders(to: .accelerator("b")).last == .withdrawn(agent: HandoverBench.destination.agent))
  }

  @Test(
    "the cache goes ahead of the machine while its memory is copied, and FREEZE stops it, and so does the end; a guest that goes on again has it going on"
  )
  func filling() {
    let fill = CacheFill(accelerator: "c", peer: "b")
    var path = HandoverBench.path
    path.fill = fill
    func order(_ hold: Int64) -> NodeOrder { .fill(peer: "b", service: HandoverBench.source.agent.address, holdMilliseconds: hold) }
    var bench = HandoverBench()
    bench.choose(path)
    #expect(bench.orders(to: .accelerator("c")) == [order(6_000)])
    bench.choose(path)
    bench.source(.stopped)
    bench.choose(path)
    #expect(bench.orders(to: .accelerator("c")) == [order(6_000), order(6_000), order(0)])
    bench.source(.resumed)
    bench.choose(path)
    bench.source(.migration(.cancelled), .guest(.running))
    #expect(bench.outcome?.result == .rolledBack)
    #expect(bench.orders(to: .accelerator("c")).suffix(2) == [order(6_000), order(0)])
  }

  // MARK: The rows

  @Test("pre-copy: STOP freezes, the destination's RESUME asks, its answer goes, the source's postmigrate fences")
  func precopy() {
    var bench = HandoverBench()
    bench.choose()
    bench.source(.migration(.setup))
    bench.destination(.migration(.active))
    bench.source(.migration(.active))
    #expect(bench.freezes == 0)
    bench.source(.stopped)
    #expect(bench.freezes == 1)
    bench.source(.migration(.completed))
    #expect(bench.gos.isEmpty, "completed at the source is not GO")
    bench.destination(.resumed)
    #expect(bench.gos.isEmpty, "RESUME alone is not GO")
    #expect(bench.asked(.guest, "center2") == 1)
    bench.destination(.guest(.running))
    #expect(
      bench.gos
        == [GoToken(machine: "vm", epoch: 7, agent: HandoverBench.destination.agent, path: HandoverBench.accelerated, expires: 0)])
    #expect(bench.fences == 0)
    bench.source(.guest(.departed))
    #expect(bench.fences == 0, "a client still stands on the old address")
    bench.moved()
    #expect(bench.orders(to: .agent).last == .fence(migration: "vm-7", machine: "vm", agent: HandoverBench.destination.agent))
    var figures = MigrationFigures()
    figures.downtimeMilliseconds = 85
    bench.source(.figures(.completed, figures))
    #expect(bench.outcome == HandoverOutcome(result: .completed, reason: "every client has moved"))
    #expect(bench.machine.report(at: bench.now).figures.downtimeMilliseconds == 85)
    #expect(bench.rollBacks == 0)
  }

  @Test("the destination's RESUME may be seen before the source's STOP: then the source is asked before GO")
  func reordered() {
    var bench = HandoverBench()
    bench.destination(.migration(.active), .resumed, .guest(.running))
    #expect(bench.gos.isEmpty)
    #expect(bench.asked(.guest, "center1") == 1)
    bench.source(.stopped)
    #expect(bench.gos.count == 1, "the STOP that was on its way answers as well")
    bench.source(.migration(.completed), .guest(.departed))
    #expect(bench.gos.count == 1)
  }

  @Test("pause-before-switchover: the guest is frozen as long as it takes, and GO still waits for RESUME")
  func switchover() {
    var bench = HandoverBench()
    bench.source(.migration(.setup), .migration(.active), .stopped, .migration(.preSwitchover))
    bench.destination(.migration(.active))
    bench.pass(.seconds(20 as Int64))
    #expect(bench.freezes == 1)
    #expect(bench.gos.isEmpty)
    bench.source(.migration(.device), .migration(.completed))
    #expect(bench.gos.isEmpty)
    bench.destination(.resumed, .guest(.running))
    #expect(bench.gos.count == 1)
  }

  @Test("post-copy: GO comes while the source still sends memory, FENCE only when it is done")
  func postcopy() {
    var bench = HandoverBench()
    bench.source(.migration(.active), .migration(.postcopyActive), .stopped)
    bench.destination(.migration(.postcopyActive), .resumed, .guest(.running))
    #expect(bench.gos.count == 1)
    bench.moved()
    bench.source(.guest(.halted("finish-migrate")))
    bench.pass(.seconds(600 as Int64))
    #expect(bench.fences == 0)
    #expect(bench.outcome == nil, "a source that answers is waited for")
    bench.source(.migration(.completed), .guest(.departed), .figures(.completed, MigrationFigures()))
    #expect(bench.fences == 1)
    #expect(bench.outcome?.result == .completed)
  }

  @Test("cancelled: ROLL BACK once the source says that the guest runs, to the agent and the clients")
  func cancelled() {
    var bench = HandoverBench()
    bench.source(.migration(.setup), .migration(.active))
    bench.destination(.migration(.active))
    bench.source(.migration(.cancelling))
    #expect(bench.rollBacks == 0, "cancelling is in progress, and may still complete")
    bench.source(.migration(.cancelled))
    #expect(bench.rollBacks == 0)
    #expect(bench.asked(.guest, "center1") == 1)
    bench.destination(.migration(.failed), .lost(reason: "closed"), .gone(reason: "refused"))
    bench.source(.guest(.running))
    let rollBack = NodeOrder.rollBack(migration: "vm-7", machine: "vm", agent: HandoverBench.destination.agent)
    #expect(bench.orders(to: .agent).last == rollBack)
    #expect(bench.orders(to: .client("client")).last == rollBack)
    #expect(bench.outcome == HandoverOutcome(result: .rolledBack, reason: "the migration was cancelled"))
    #expect(bench.gos.isEmpty)
  }

  @Test("the destination dies: ROLL BACK on the source's word, with the hypervisor's reason")
  func destinationDies() {
    var bench = HandoverBench()
    bench.source(.migration(.active))
    bench.destination(.migration(.active), .lost(reason: "closed"), .gone(reason: "the connection was refused"))
    #expect(bench.outcome == nil)
    bench.source(.migration(.failed))
    var figures = MigrationFigures()
    figures.errorDescription = "Unable to write to socket: Broken pipe"
    bench.source(.figures(.failed, figures), .guest(.running))
    #expect(
      bench.outcome == HandoverOutcome(result: .rolledBack, reason: "the migration failed: Unable to write to socket: Broken pipe"))
  }

  @Test("it fails after STOP: the source starts the guest again, and that is a ROLL BACK, not a GO")
  func failsFrozen() {
    var bench = HandoverBench()
    bench.destination(.migration(.active))
    bench.source(.migration(.active), .stopped)
    #expect(bench.freezes == 1)
    bench.source(.resumed, .migration(.failed), .guest(.running))
    #expect(bench.outcome?.result == .rolledBack)
    #expect(bench.gos.isEmpty)
  }

  @Test("a source that failed but does not run its guest is asked again, and a person is called")
  func failedButStopped() {
    var bench = HandoverBench()
    bench.source(.migration(.active), .stopped, .migration(.failed), .guest(.halted("paused")))
    for _ in 0..<40 {
      bench.pass(.milliseconds(500 as Int64))
      bench.source(.guest(.halted("paused")))
    }
    #expect(bench.rollBacks == 0)
    #expect(bench.lines.contains { $0.contains("a person must look") })
    #expect((5...45).contains(bench.asked(.guest, "center1")), "polls are spaced: \(bench.asked(.guest, "center1"))")
    bench.source(.resumed)
    #expect(bench.outcome?.result == .rolledBack)
  }

  // MARK: What must not be taken for GO

  @Test("a RESUME at a destination where no active was seen is no GO")
  func strayResume() {
    var bench = HandoverBench()
    bench.source(.migration(.active), .stopped)
    bench.destination(.resumed, .guest(.running))
    #expect(bench.gos.isEmpty)
    #expect(bench.asked(.migration, "center2") == 1, "it is asked, not guessed")
    bench.destination(.figures(nil, MigrationFigures()))
    #expect(bench.gos.isEmpty)
  }

  @Test("a leftover of an earlier arrival at the destination is no GO")
  func leftover() {
    var bench = HandoverBench()
    bench.source(.migration(.active), .stopped)
    // The old process, which once received this guest, runs it still (somebody continued it); it never waited for this one.
    bench.destination(.connected, .guest(.running), .figures(.completed, MigrationFigures()))
    #expect(bench.gos.isEmpty)
    #expect(bench.outcome == nil)
  }

  @Test("an active before the destination's process was started anew does not count for the new one")
  func newProcess() {
    var bench = HandoverBench()
    bench.destination(.migration(.active), .lost(reason: "closed"), .gone(reason: "no such socket"), .connected)
    bench.destination(.guest(.running), .figures(nil, MigrationFigures()), .resumed, .guest(.running), .figures(nil, MigrationFigures()))
    bench.source(.stopped)
    #expect(bench.gos.isEmpty)
  }

  @Test("a RESUME after which the guest does not run is asked about until it does")
  func resumeThenPaused() {
    var bench = HandoverBench()
    bench.destination(.migration(.active))
    bench.source(.stopped)
    bench.destination(.resumed, .guest(.halted("paused")))
    #expect(bench.gos.isEmpty)
    let asked = bench.asked(.guest, "center2")
    bench.pass(.milliseconds(10 as Int64))
    #expect(bench.asked(.guest, "center2") == asked + 1)
    bench.destination(.guest(.running))
    #expect(bench.gos.count == 1)
  }

  @Test("a destination started with -S resumes when somebody continues it, and GO waits as long")
  func startedPaused() {
    var bench = HandoverBench()
    bench.destination(.migration(.active))
    bench.source(.stopped, .migration(.completed), .guest(.departed))
    bench.destination(.migration(.completed))
    bench.pass(.seconds(60 as Int64))
    #expect(bench.lines.contains { $0.hasPrefix("a person must look: no RESUME at center2") })
    #expect(bench.gos.isEmpty)
    bench.destination(.resumed, .guest(.running))
    #expect(bench.gos.count == 1)
  }

  @Test("while the source says that it runs, GO is withheld, and asked again at growing pauses")
  func bothRun() {
    var bench = HandoverBench()
    bench.destination(.migration(.active), .resumed, .guest(.running))
    for _ in 0..<5 {
      bench.source(.guest(.running))
      bench.pass(.milliseconds(170 as Int64))  // the pauses are 10, 20, 40, 80 and 160 ms
    }
    #expect(bench.gos.isEmpty)
    #expect(bench.lines.contains { $0.hasPrefix("GO withheld") })
    #expect(bench.asked(.guest, "center1") == 6)
    bench.source(.guest(.departed))
    #expect(bench.gos.count == 1)
  }

  @Test("a source that said that it runs, and then falls silent or is lost, still holds GO back; one that is gone does not")
  func saidRunningThenSilent() {
    var bench = HandoverBench()
    bench.destination(.migration(.active), .resumed, .guest(.running))
    bench.source(.guest(.running))
    bench.pass(.seconds(60 as Int64))
    #expect(bench.gos.isEmpty)
    bench.source(.lost(reason: "closed"))
    bench.pass(.seconds(60 as Int64))
    #expect(bench.gos.isEmpty)
    bench.source(.gone(reason: "nothing listens"))
    #expect(bench.gos.count == 1)
  }

  @Test("a source that does not answer cannot hold GO back for longer than its limit")
  func silentSource() {
    var bench = HandoverBench()
    bench.destination(.migration(.active), .resumed, .guest(.running))
    #expect(bench.gos.isEmpty)
    bench.pass(.milliseconds(199 as Int64))
    #expect(bench.gos.isEmpty)
    bench.pass(.milliseconds(1 as Int64))
    #expect(bench.gos.count == 1)
  }

  @Test("after the source has failed there is no GO, even if the destination runs: a person must look")
  func failedAndArrived() {
    var bench = HandoverBench()
    bench.destination(.migration(.active))
    bench.source(.stopped, .migration(.failed))
    bench.destination(.resumed, .guest(.running))
    #expect(bench.gos.isEmpty)
    #expect(bench.rollBacks == 0)
    #expect(bench.outcome?.result == .unresolved)
  }

  @Test("after GO there is no ROLL BACK, even if the source fails: a person must look")
  func goneAndFailed() {
    var bench = HandoverBench()
    bench.destination(.migration(.active))
    bench.source(.stopped)
    bench.destination(.resumed, .guest(.running))
    bench.source(.migration(.failed), .guest(.running))
    bench.moved()
    bench.pass(.seconds(300 as Int64))
    #expect(bench.rollBacks == 0)
    #expect(bench.fences == 0, "a source that runs is not out of the way")
    #expect(bench.outcome?.result == .unresolved)
    #expect(bench.lines.contains { $0.contains("a person must look") })
  }

  @Test("a phase that we do not know is in progress")
  func unknownPhase() {
    var bench = HandoverBench()
    bench.source(.migration(.other("wait-unplug")), .migration(MigrationPhase("colo")))
    bench.destination(.migration(.other("postcopy-recover-setup")))
    #expect(bench.outcome == nil)
    #expect(bench.gos.isEmpty)
    #expect(bench.rollBacks == 0)
  }

  // MARK: Lost connections

  @Test("the destination's connection is lost at RESUME: after the reconnect its own word decides")
  func missedResume() {
    var bench = HandoverBench()
    bench.source(.migration(.active))
    bench.destination(.migration(.active), .lost(reason: "reset"))
    bench.source(.stopped, .migration(.completed), .guest(.departed))
    bench.pass(.seconds(5 as Int64))
    #expect(bench.gos.isEmpty)
    bench.destination(.connected)
    #expect(bench.asked(.guest, "center2") == 1)
    #expect(bench.asked(.migration, "center2") == 1)
    bench.destination(.guest(.running))
    #expect(bench.gos.isEmpty, "it runs, but nobody said what")
    bench.destination(.figures(.completed, MigrationFigures()))
    #expect(bench.gos.count == 1)
  }

  @Test("RESUME is seen, then the connection is lost before the answer: no GO before it has been asked again")
  func lostBeforeAnswer() {
    var bench = HandoverBench()
    bench.source(.stopped)
    bench.destination(.migration(.active), .resumed, .unanswered(.guest, reason: "closed"), .lost(reason: "closed"))
    bench.pass(.seconds(3 as Int64))
    #expect(bench.gos.isEmpty)
    bench.destination(.connected, .guest(.running))
    #expect(bench.gos.count == 1)
  }

  @Test("the source's connection is lost and comes back: what it missed is asked for", arguments: [MigrationPhase.failed, .cancelled])
  func missedFailure(phase: MigrationPhase) {
    var bench = HandoverBench()
    bench.source(.migration(.active), .lost(reason: "reset"))
    bench.pass(.seconds(60 as Int64))
    #expect(bench.outcome == nil)
    bench.source(.connected)
    #expect(bench.asked(.guest, "center1") == 1)
    bench.source(.guest(.running), .figures(phase, MigrationFigures()), .figures(phase, MigrationFigures()), .guest(.running))
    #expect(bench.outcome?.result == .rolledBack)
  }

  @Test("the source comes back in the middle of copying: nothing has happened")
  func reconnectedWhileCopying() {
    var bench = HandoverBench()
    bench.source(.migration(.active), .lost(reason: "reset"), .connected, .guest(.running), .figures(.active, MigrationFigures()))
    #expect(bench.outcome == nil)
    #expect(bench.freezes == 0)
    bench.destination(.migration(.active))
    bench.source(.stopped)
    bench.destination(.resumed, .guest(.running))
    #expect(bench.gos.count == 1)
  }

  @Test("the source's process was started anew: its migration is over")
  func sourceRestarted() {
    var bench = HandoverBench()
    bench.source(.migration(.active), .lost(reason: "reset"), .connected, .guest(.running), .figures(nil, MigrationFigures()))
    bench.source(.guest(.running))
    #expect(bench.outcome?.result == .rolledBack)
  }

  @Test("a source that was killed right after its guest had left does not hold GO back, and counts as fenced")
  func sourceKilled() {
    var bench = HandoverBench()
    bench.source(.migration(.active))
    bench.destination(.migration(.active))
    bench.source(.lost(reason: "closed"), .gone(reason: "no such socket"))
    #expect(bench.outcome == nil)
    bench.destination(.resumed, .guest(.running))
    #expect(bench.gos.count == 1)
    bench.moved()
    #expect(bench.fences == 1)
    #expect(bench.outcome?.result == .completed)
  }

  @Test("a source that was killed while it copied: no GO, no ROLL BACK, and a person is called")
  func sourceKilledEarly() {
    var bench = HandoverBench()
    bench.source(.migration(.active), .lost(reason: "closed"), .gone(reason: "no such socket"))
    bench.destination(.migration(.active), .migration(.failed), .lost(reason: "closed"), .gone(reason: "refused"))
    bench.pass(.seconds(31 as Int64))
    #expect(bench.outcome?.result == .unresolved)
    #expect(bench.gos.isEmpty)
    #expect(bench.rollBacks == 0)
  }

  // MARK: Clients

  @Test("GO is sent again every second to those who have not moved, and ends at its limit")
  func resend() {
    var bench = HandoverBench(clients: ["c1", "c2"])
    bench.destination(.migration(.active))
    bench.source(.stopped)
    bench.destination(.resumed, .guest(.running))
    bench.source(.guest(.departed), .figures(.completed, MigrationFigures()))
    func count(_ client: NodeID) -> Int {
      bench.effects.count { effect in
        if case .go(_, _, client) = effect { return true }
        return false
      }
    }
    #expect(count("c1") == 1)
    #expect(count("c2") == 1)
    bench.moved("c1")
    bench.pass(.seconds(3 as Int64))
    #expect(count("c1") == 1)
    #expect(count("c2") == 4)
    #expect(bench.outcome == nil)
    bench.pass(.seconds(60 as Int64))
    #expect(count("c2") == 30)
    #expect(bench.outcome == HandoverOutcome(result: .completed, reason: "clients that did not report a move: c2"))
    #expect(bench.fences == 1)
  }

  @Test("the latency of GO is counted from RESUME, to the push and to the last client's report")
  func latency() throws {
    var bench = HandoverBench(clients: ["c1", "c2"])
    bench.destination(.migration(.active))
    bench.machine.receive(.stopped, from: .source, stamp: 5_000_000, at: bench.now)
    bench.pass(.milliseconds(100 as Int64))
    bench.machine.receive(.resumed, from: .destination, stamp: 5_085_000, at: bench.now)
    bench.pass(.milliseconds(2 as Int64))
    bench.destination(.guest(.running))
    bench.pass(.milliseconds(300 as Int64))
    bench.moved("c1")
    #expect(bench.machine.report(at: bench.now).goLatencyMilliseconds == nil, "one is still on its way")
    bench.pass(.milliseconds(50 as Int64))
    bench.moved("c2")
    let report = bench.machine.report(at: bench.now)
    #expect(report.resumeToGoMilliseconds == 2)
    #expect(report.goLatencyMilliseconds == 352)
    #expect(report.stopToResumeMilliseconds == 85)
    #expect(report.clients.map(\.resumeToMovedMilliseconds) == [302, 352])
    #expect(report.clients.map(\.goToConfirmedMilliseconds) == [310, 310])
  }

  @Test("reports of another epoch, another machine or an unknown client move nothing")
  func foreignReports() {
    var bench = HandoverBench()
    bench.moved()
    bench.destination(.migration(.active))
    bench.source(.stopped)
    bench.destination(.resumed, .guest(.running))
    bench.report(.moved(machine: "vm", epoch: 6, goToConfirmedMilliseconds: 1))
    bench.report(.moved(machine: "other", epoch: 7, goToConfirmedMilliseconds: 1))
    bench.moved("stranger")
    #expect(bench.machine.report(at: bench.now).clients.map(\.resumeToMovedMilliseconds) == [nil], "nor does one from before GO")
  }

  @Test("a client that registers in the middle is told where things stand")
  func join() {
    var bench = HandoverBench(clients: [])
    bench.source(.stopped)
    bench.machine.join("late", at: bench.now)
    bench.drain()
    #expect(bench.orders(to: .client("late")) == [.freeze(migration: "vm-7", machine: "vm")])
    #expect(bench.effects.contains(.choosePath(client: "late")))
    bench.destination(.migration(.active), .resumed, .guest(.running))
    bench.machine.join("later", at: bench.now)
    bench.drain()
    #expect(bench.gos.count == 2)
  }

  @Test("without clients the handover ends with its fence")
  func noClients() {
    var bench = HandoverBench(clients: [])
    bench.destination(.migration(.active))
    bench.source(.stopped, .migration(.completed), .guest(.departed), .figures(.completed, MigrationFigures()))
    bench.destination(.resumed, .guest(.running))
    #expect(bench.outcome?.result == .completed)
    #expect(bench.fences == 1)
  }

  @Test("the figures are waited for, but not for ever")
  func missingFigures() {
    var bench = HandoverBench()
    bench.destination(.migration(.active))
    bench.source(.stopped)
    bench.destination(.resumed, .guest(.running))
    bench.source(.guest(.departed))
    bench.moved()
    #expect(bench.outcome == nil)
    bench.pass(.seconds(2 as Int64))
    #expect(bench.outcome?.result == .completed)
  }

  @Test("a handover that is over says nothing more")
  func over() {
    var bench = HandoverBench()
    bench.source(.migration(.cancelled), .guest(.running))
    _ = bench.news()
    bench.destination(.migration(.active), .resumed, .guest(.running), .gone(reason: "x"))
    bench.source(.stopped, .migration(.setup), .connected)
    bench.moved()
    bench.pass(.seconds(600 as Int64))
    #expect(bench.news().isEmpty)
    #expect(bench.machine.deadline == nil)
  }
}
