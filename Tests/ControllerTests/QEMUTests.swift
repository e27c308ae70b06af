import Control
import Controller
import Foundation
import Hypervisors
import Synchronization
import Testing
import Vocabulary

/// A QEMU without disk or network: its firmware runs, and that is enough to be migrated.
final class BareQEMU: Sendable {
  static let program = "/usr/bin/qemu-system-x86_64"
  static var isInstalled: Bool { FileManager.default.isExecutableFile(atPath: program) }

  /// For the test, as a manager would have it.
  let manager: QMPAddress
  /// For the controller.
  let controller: QMPAddress
  private let process: pid_t
  private let hasEnded = Mutex(false)

  init(folder: String, name: String, incoming: String? = nil) throws {
    manager = .unix("\(folder)/\(name)-m")
    controller = .unix("\(folder)/\(name)-c")
    var arguments = [BareQEMU.program, "-machine", "pc", "-accel", "tcg", "-m", "32", "-display", "none", "-nodefaults"]
    for address in [manager, controller] { arguments += ["-qmp", "\(address),server=on,wait=off"] }
    if let incoming { arguments += ["-incoming", incoming] }
    process = try BareQEMU.spawn(arguments)
  }

  /// Foundation's `Process` waits in a run loop, which tasks have none of.
  private static func spawn(_ arguments: [String]) throws -> pid_t {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    // Nothing of ours: whoever reads the tests' output would wait for a hypervisor that was left behind.
    for descriptor: Int32 in 0...2 { posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0) }
    var words: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var process: pid_t = 0
    let result = posix_spawn(&process, arguments[0], &actions, nil, &words, environ)
    try #require(result == 0, "\(arguments[0]): \(String(cString: strerror(result)))")
    return process
  }

  /// Once: afterwards the number may be another process's.
  func kill() {
    let isFirst = hasEnded.withLock { hasEnded in
      defer { hasEnded = true }
      return !hasEnded
    }
    guard isFirst else { return }
    Foundation.kill(process, SIGKILL)
    var status: Int32 = 0
    waitpid(process, &status, 0)  // no longer than the kernel takes to end it
  }

  /// A connection to it, which may take a moment to be possible.
  func connect() async throws -> QMPConnection {
    for _ in 0..<400 {
      if let connection = try? await QMPConnection.connect(to: manager) { return connection }
      try await Task.sleep(for: .milliseconds(25))
    }
    return try await QMPConnection.connect(to: manager)
  }
}

@Suite("Real hypervisors: QEMU's own migrations", .enabled(if: BareQEMU.isInstalled), .serialized, .timeLimit(.minutes(2)))
struct QEMUTests {
  private struct Scene {
    let bench: ControllerBench
    let source: BareQEMU
    let destination: BareQEMU
    let manager: QMPConnection
    let incoming: JSON

    func migrate() async throws { try await manager.execute("migrate", ["uri": incoming]) }

    /// So slow that it never ends by itself.
    func throttle() async throws { try await manager.execute("migrate-set-parameters", ["max-bandwidth": 8_192]) }
    func unthrottle() async throws { try await manager.execute("migrate-set-parameters", ["max-bandwidth": 1_000_000_000]) }
  }

  private func play(_ body: (Scene) async throws -> Void) async throws {
    let folder = NSTemporaryDirectory() + "lh-\(UUID().uuidString.prefix(8))"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let source = try BareQEMU(folder: folder, name: "s")
    defer { source.kill() }
    let destination = try BareQEMU(folder: folder, name: "d", incoming: "unix:\(folder)/i")
    defer { destination.kill() }
    let manager = try await source.connect()
    _ = try await destination.connect()
    let bench = try ControllerBench(hypervisors: ["center1": source.controller, "center2": destination.controller])
    try await body(
      Scene(bench: bench, source: source, destination: destination, manager: manager, incoming: .string("unix:\(folder)/i")))
  }

  /// A controller and a client, once both hypervisors are connected.
  private func cast(_ scene: Scene, _ body: (_ client: FakeNode, _ lines: Inbox<String>) async throws -> Void) async throws {
    try await scene.bench.run { controller in
      let lines = Inbox<String>()
      let events = try await controller.events("/v1/timeline/events?since=0")
      let client = FakeNode.client(at: controller)
      try await during {
        for try await event in events { lines.add(event) }
      } _: {
        for _ in 0..<2 { try await lines.next("both hypervisors") { $0.contains("\"connected\"") } }
        try await client.join { try await body(client, lines) }
      }
    }
  }

  private func outcome(_ client: FakeNode, _ lines: Inbox<String>) async throws -> MigrationReport {
    try await lines.next("the end") { $0.contains("handover of vm ") }
    return try #require(try await client.client.get("/v1/migrations", as: [MigrationReport].self).first)
  }

  @Test("pre-copy: PREPARE, FREEZE, GO behind the destination's RESUME, FENCE, with QEMU's figures")
  func precopy() async throws {
    try await play { scene in
      try await cast(scene) { client, lines in
        try await scene.migrate()
        _ = try await client.nextPrepare()
        let token = try await client.nextGo()
        try await client.report(.moved(machine: "vm", epoch: token.epoch, goToConfirmedMilliseconds: 1))
        let report = try await outcome(client, lines)
        #expect(report.state == "completed")
        #expect(report.figures.downtimeMilliseconds != nil)
        #expect(report.figures.transferredOctets ?? 0 > 0)
        #expect(report.stopToResumeMilliseconds ?? 0 > 0)
        // STOP and RESUME come on two connections, so either may be heard first; GO waits for both.
        for words in [["STOP (", "FREEZE", "GO: ", "FENCE"], ["RESUME (", "GO: "]] {
          let order = words.map { word in lines.all.firstIndex { $0.contains(word) } ?? -1 }
          #expect(order == order.sorted() && !order.contains(-1), "\(lines.all)")
        }
      }
    }
  }

  @Test("cancelled: ROLL BACK, no GO")
  func cancelled() async throws {
    try await play { scene in
      try await cast(scene) { client, lines in
        try await scene.throttle()
        try await scene.migrate()
        _ = try await client.nextPrepare()
        try await scene.manager.execute("migrate_cancel")
        try await client.next("ROLL BACK") { if case .rollBack = $0 { true } else { false } }
        #expect(try await outcome(client, lines).state == "rolledBack")
        #expect(client.gos.isEmpty)
      }
    }
  }

  @Test("the destination is killed: ROLL BACK, no GO")
  func killed() async throws {
    try await play { scene in
      try await cast(scene) { client, lines in
        try await scene.throttle()
        try await scene.migrate()
        _ = try await client.nextPrepare()
        scene.destination.kill()
        try await client.next("ROLL BACK") { if case .rollBack = $0 { true } else { false } }
        let report = try await outcome(client, lines)
        #expect(report.state == "rolledBack")
        #expect(report.reason?.hasPrefix("the migration failed") == true, "\(report.reason ?? "")")
        #expect(client.gos.isEmpty)
      }
    }
  }

  @Test("a controller that starts in the middle, when QEMU refuses to turn events on, still gives GO")
  func late() async throws {
    try await play { scene in
      try await scene.throttle()
      try await scene.migrate()
      try await cast(scene) { client, lines in
        _ = try await client.nextPrepare()
        try await scene.unthrottle()
        let token = try await client.nextGo()
        try await client.report(.moved(machine: "vm", epoch: token.epoch, goToConfirmedMilliseconds: 1))
        #expect(try await outcome(client, lines).state == "completed")
      }
    }
  }
}
