import Control
import Hypervisors
import Logging
import Testing
import Vocabulary

/// A hypervisor and its watcher, of one kind or the other, behind the same levers.
struct WatchedHypervisor: Sendable {
  enum Kind: CaseIterable, Sendable { case scripted, qmp }

  let watcher: any HypervisorWatcher
  let notices = Inbox<HypervisorNotice>()
  private let scripted: ScriptedWatcher?
  let server: ScriptedHypervisor?

  static var quiet: Logger {
    var logger = Logger(label: "test")
    logger.logLevel = .critical
    return logger
  }

  static var limits: WatcherLimits {
    var limits = WatcherLimits()
    limits.firstPause = .milliseconds(5 as Int64)
    limits.longestLocalPause = .milliseconds(20 as Int64)
    limits.connect = .milliseconds(500 as Int64)
    limits.poll = .milliseconds(20 as Int64)
    return limits
  }

  init(_ kind: Kind) {
    switch kind {
    case .scripted:
      let double = ScriptedWatcher(site: "center1")
      (scripted, server, watcher) = (double, nil, double)
    case .qmp:
      let server = ScriptedHypervisor()
      (scripted, self.server) = (nil, server)
      watcher = QMPWatcher(site: "center1", address: server.address, limits: WatchedHypervisor.limits, logger: WatchedHypervisor.quiet)
    }
  }

  func start(_ guest: GuestState) async throws {
    scripted?.set(guest: guest)
    server?.set { $0.status = guest.text }
    try await server?.start()
  }

  /// For a hypervisor that starts after its watcher.
  func appear(_ guest: GuestState) async throws {
    try await start(guest)
    scripted?.say(.connected)
  }

  func vanish() async throws {
    scripted?.say(.lost(reason: "the hypervisor closed it"), .gone(reason: "there is no such socket"))
    try await server?.kill()
  }

  func stop(stamp: Int64) async throws {
    scripted?.say(.stopped, stamp: stamp)
    server?.set { $0.status = "paused" }
    server?.send("STOP", stamp: stamp)
    try await server?.flush()
  }

  func migrate(_ phase: MigrationPhase) {
    scripted?.say(.migration(phase))
    server?.set { $0.migration = ["status": .string(phase.text)] }
    server?.sendMigration(phase.text)
  }

  /// Runs the watcher for as long as the body takes.
  func watch(_ body: () async throws -> Void) async throws {
    let (watcher, notices) = (self.watcher, self.notices)
    let reader = Task { for await notice in watcher.notices { notices.add(notice) } }
    try await during({ await watcher.run() }, body)
    await reader.value  // the stream ends with the watcher
    try? await server?.kill()
  }

  func next(_ what: String, where fits: @escaping @Sendable (HypervisorEvent) -> Bool = { _ in true }) async throws -> HypervisorEvent {
    try await notices.next(what) { fits($0.event) }.event
  }
}

extension WatchedHypervisor {
  /// The next notice is this.
  func expect(_ event: HypervisorEvent, sourceLocation: SourceLocation = #_sourceLocation) async throws {
    let got = try await next("\(event)")
    #expect(got == event, sourceLocation: sourceLocation)
  }
}

@Suite("Every watcher", .timeLimit(.minutes(1)))
struct WatcherTests {
  @Test("says that it is connected, and ends its stream when it is stopped", arguments: WatchedHypervisor.Kind.allCases)
  func connects(kind: WatchedHypervisor.Kind) async throws {
    let bench = WatchedHypervisor(kind)
    try await bench.start(.running)
    try await bench.watch { try await bench.expect(.connected) }
  }

  @Test("passes events on in their order, with the hypervisor's time stamps", arguments: WatchedHypervisor.Kind.allCases)
  func events(kind: WatchedHypervisor.Kind) async throws {
    let bench = WatchedHypervisor(kind)
    try await bench.start(.running)
    try await bench.watch {
      try await bench.expect(.connected)
      bench.migrate(.setup)
      bench.migrate(.active)
      try await bench.stop(stamp: 1_700_000_000_123_456)
      bench.migrate(.other("colo"))
      try await bench.expect(.migration(.setup))
      try await bench.expect(.migration(.active))
      let stop = try await bench.notices.next("STOP")
      #expect(stop.event == .stopped)
      #expect(stop.stampMicroseconds == 1_700_000_000_123_456)
      try await bench.expect(.migration(.other("colo")))
    }
  }

  @Test("answers in their place among the events", arguments: WatchedHypervisor.Kind.allCases)
  func answers(kind: WatchedHypervisor.Kind) async throws {
    let bench = WatchedHypervisor(kind)
    try await bench.start(.running)
    try await bench.watch {
      try await bench.expect(.connected)
      bench.watcher.ask(.guest)
      bench.watcher.ask(.migration)
      try await bench.expect(.guest(.running))
      try await bench.expect(.figures(nil, MigrationFigures()))
      try await bench.stop(stamp: 1)
      bench.watcher.ask(.guest)
      try await bench.expect(.stopped)
      try await bench.expect(.guest(.halted("paused")))
    }
  }

  @Test("does not guess while the hypervisor is not there, and comes back when it is", arguments: WatchedHypervisor.Kind.allCases)
  func late(kind: WatchedHypervisor.Kind) async throws {
    let bench = WatchedHypervisor(kind)
    try await bench.watch {
      guard case .gone = try await bench.next("gone") else { Issue.record("the first word is not gone"); return }
      bench.watcher.ask(.guest)
      guard case .unanswered(.guest, _) = try await bench.next("unanswered") else { Issue.record("not unanswered"); return }
      try await bench.appear(.incoming)
      try await bench.expect(.connected)
      bench.watcher.ask(.guest)
      try await bench.expect(.guest(.incoming))
    }
  }

  @Test(
    "says lost, then gone, when the hypervisor dies, each once; and connected when another one is started",
    arguments: WatchedHypervisor.Kind.allCases)
  func dies(kind: WatchedHypervisor.Kind) async throws {
    let bench = WatchedHypervisor(kind)
    try await bench.start(.running)
    try await bench.watch {
      try await bench.expect(.connected)
      try await bench.vanish()
      guard case .lost = try await bench.next("lost") else { Issue.record("not lost"); return }
      guard case .gone = try await bench.next("gone") else { Issue.record("not gone"); return }
      try await bench.appear(.running)
      try await bench.expect(.connected)
    }
  }
}

@Suite("The watcher of QMP", .timeLimit(.minutes(1)))
struct QMPWatcherTests {
  @Test("turns migration events on, and touches no other capability")
  func capabilities() async throws {
    let bench = WatchedHypervisor(.qmp)
    let server = try #require(bench.server)
    try await bench.start(.running)
    try await bench.watch { try await bench.expect(.connected) }
    #expect(server.capabilities == ["xbzrle": true, "events": true, "postcopy-ram": false])
    let set = server.received.filter { $0["execute"] == "migrate-set-capabilities" }
    #expect(set.map { $0["arguments"] } == [["capabilities": [["capability": "events", "state": true]]]])
  }

  @Test("leaves capabilities alone when events are on already")
  func alreadyOn() async throws {
    let bench = WatchedHypervisor(.qmp)
    let server = try #require(bench.server)
    server.set { $0.capabilities["events"] = true }
    try await bench.start(.running)
    try await bench.watch { try await bench.expect(.connected) }
    #expect(!server.received.contains { $0["execute"] == "migrate-set-capabilities" })
  }

  @Test("asks about the migration while events cannot be turned on, and stops when they can")
  func refused() async throws {
    let bench = WatchedHypervisor(.qmp)
    let server = try #require(bench.server)
    server.set {
      $0.refusesCapabilities = true
      $0.migration = ["status": "active"]
    }
    try await bench.start(.running)
    try await bench.watch {
      try await bench.expect(.connected)
      for _ in 0..<2 { try await bench.expect(.figures(.active, MigrationFigures())) }
      server.set { $0.refusesCapabilities = false }
      for _ in 0..<1_000 where server.capabilities["events"] != true { try await server.commands.next("a command") }
      #expect(server.capabilities["events"] == true)
    }
  }

  @Test("keeps an answer between the event before it and the event behind it, even in one segment")
  func order() async throws {
    let bench = WatchedHypervisor(.qmp)
    let server = try #require(bench.server)
    try await bench.start(.running)
    try await bench.watch {
      try await bench.expect(.connected)
      server.set {
        $0.before = ["STOP", "RESUME", "STOP"]; $0.after = ["RESUME"]; $0.status = "paused"
      }
      for _ in 0..<20 {
        bench.watcher.ask(.guest)
        var got: [HypervisorEvent] = []
        for _ in 0..<5 { got.append(try await bench.next("an event or the answer")) }
        #expect(got == [.stopped, .resumed, .stopped, .guest(.halted("paused")), .resumed])
      }
    }
  }

  @Test("brings the figures of query-migrate")
  func figures() async throws {
    let bench = WatchedHypervisor(.qmp)
    let server = try #require(bench.server)
    server.set {
      $0.migration = [
        "status": "completed", "downtime": 85, "total-time": 2_134, "setup-time": 3, "cpu-throttle-percentage": 20,
        "ram": [
          "transferred": 123_456_789, "remaining": 0, "mbps": 268.5, "dirty-pages-rate": 12, "downtime-bytes": 4_096, "postcopy-bytes": 0,
        ],
      ]
    }
    try await bench.start(.departed)
    try await bench.watch {
      try await bench.expect(.connected)
      bench.watcher.ask(.migration)
      guard case .figures(.completed, let figures) = try await bench.next("figures") else { Issue.record("no figures"); return }
      #expect(figures.downtimeMilliseconds == 85)
      #expect(figures.totalMilliseconds == 2_134)
      #expect(figures.setupMilliseconds == 3)
      #expect(figures.processorThrottlePercent == 20)
      #expect(figures.transferredOctets == 123_456_789)
      #expect(figures.remainingOctets == 0)
      #expect(figures.megabitsPerSecond == 268.5)
      #expect(figures.dirtyPagesPerSecond == 12)
      #expect(figures.downtimeOctets == 4_096)
      #expect(figures.postcopyOctets == 0)
      #expect(figures.errorDescription == nil)
    }
  }

  @Test("a socket that another client holds is lost, not gone, and is taken when it is free")
  func held() async throws {
    let bench = WatchedHypervisor(.qmp)
    let server = try #require(bench.server)
    server.set { $0.isSilent = true }
    try await bench.start(.running)
    try await bench.watch {
      guard case .lost(let reason) = try await bench.next("lost") else { Issue.record("not lost"); return }
      #expect(reason.contains("does another client hold its socket?"))
      server.set { $0.isSilent = false }
      try await bench.expect(.connected)
    }
  }
}
