import Authentication
import Control
import Foundation
import Hypervisors
import LinuxNetwork
import Vocabulary

/// One cell of the handover bench: a lab with one round trip and one loss, in which the machine moves there and back.
struct BenchRun: Sendable {
  private static let forwardPort = 9_000
  /// Registering, probing both paths and warming tunnels takes some round trips; a loaded machine takes longer.
  private static let readyLimit = TimeSpan.seconds(30 as Int64)
  /// A client that has not moved is given up after 30 s (HandoverLimits.moveLimit).
  private static let outcomeLimit = TimeSpan.seconds(60 as Int64)
  /// Until the stream flows as before: its slow start sends what has collected meanwhile in a few round trips, 3 x 10 segments x 2^3 > 500 ms x 5 Mbit/s / 2.
  private static let settlingRoundTrips: Int64 = 3
  private static let leastSettling = TimeSpan.milliseconds(300 as Int64)
  /// With losses a stream may stand still for some retransmission timeouts.
  private static let flowLimit = TimeSpan.seconds(60 as Int64)
  /// Until the rate is back and the agent has told its figures (0.5 s after the move).
  private static let recoveryLimit = TimeSpan.seconds(10 as Int64)

  private let settings: BenchSettings
  private let lab: LabSettings
  private let prerequisites: Prerequisites
  private let folder: RunFolder
  private let progress: RunProgress

  init(_ settings: BenchSettings, _ lab: LabSettings, _ prerequisites: Prerequisites, _ folder: RunFolder, _ progress: RunProgress) {
    self.settings = settings
    self.lab = lab
    self.prerequisites = prerequisites
    self.folder = folder
    self.progress = progress
  }

  private static let acceleratorC = Nodes.Accelerator(
    name: "c", space: Topology.space("accc"), site: Nodes.center1, address: "10.1.0.5", prefix: "10.1.0.0/24")

  /// Builds everything, moves the machine, and takes everything down again but the namespaces, which go with the run folder.
  func measure() async throws -> BenchResult.Cell {
    progress.step(
      "round trip \(lab.roundTripBefore.milliseconds) ms, loss \(lab.loss * 100) %\(settings.isParked ? ", accelerators everywhere" : "")")
    let topology = try Topology(lab)
    defer { _ = topology.stop() }
    let keyFile = try folder.write(EndpointKey.newLine() + "\n", to: "key")
    let controller = try ControllerClient(bearerToken: try EndpointKey(contentsOf: keyFile).bearerToken, folder: folder)
    var hypervisors = try Sides()
    defer { hypervisors.end() }
    var nodes = Nodes()
    defer { nodes.end() }
    try await nodes.startController(lab, program: prerequisites.program, keyFile: keyFile, folder: folder) { _ in }
    if settings.isParked { try await startAccelerators(&nodes, keyFile: keyFile) }
    let machine = try await BenchMachine(
      lab, sourceRate: settings.sourceRate, tick: settings.tick, prerequisites, keyFile: keyFile, folder: folder)
    defer { machine.end() }
    let streams = try await startClients(&nodes, keyFile: keyFile)
    defer { for stream in streams { stream.end() } }
    if settings.isParked { try await waitForPaths(controller) }

    var moves: [BenchResult.Move] = []
    var here = BenchMachine.Place.one
    var there = BenchMachine.Place.two
    for number in 1...settings.moves {
      let count = nodes.all.count  // the controller is no node, the agent is one
      try await waitUntilReady(controller, here: here, nodes: count)
      for stream in streams { try await stream.waitForFlow(limit: BenchRun.flowLimit) }
      let move = try await move(machine, streams, controller, &hypervisors, from: here, to: there)
      progress.step("\(number). to \(move.to): \(move.spread) ms, \(move.path)")
      moves.append(move)
      try machine.check()
      try hypervisors.expectGuest(at: here.site)
      swap(&here, &there)
    }
    for stream in streams { try await stream.waitForFlow(limit: BenchRun.flowLimit) }
    let multipath = try await BenchMultipath(settings: settings, lab: lab, prerequisites: prerequisites, folder: folder, progress: progress)
      .measure(machine, from: here, to: there)
    func sum(_ figure: (BenchStream) -> Int) -> Int { streams.reduce(0) { $0 + figure($1) } }
    return BenchResult.Cell(
      roundTrip: lab.roundTripBefore, loss: lab.loss, isParked: settings.isParked, moves: moves, octets: sum(\.octets),
      lost: sum { $0.lost + ($0.isAstray ? 1 : 0) },  // a difference from which a stream did not come back
      duplicated: sum(\.duplicated), multipath: multipath, wan: topology.stop())
  }

  /// One client for each session, with a stream through its own forward.
  private func startClients(_ nodes: inout Nodes, keyFile: String) async throws -> [BenchStream] {
    var streams: [BenchStream] = []
    for number in 1...settings.sessions {
      let port = BenchRun.forwardPort + number - 1
      let forward = ["--forward", "127.0.0.1:\(port)=vm:\(BenchMachine.sourcePort)"]
      try await nodes.startClient(lab, forward, number: number, program: prerequisites.program, keyFile: keyFile, folder: folder)
      streams.append(try BenchStream(lab, forward: port, busybox: prerequisites.path(of: "busybox"), folder: folder, number: number))
    }
    return streams
  }

  private func startAccelerators(_ nodes: inout Nodes, keyFile: String) async throws {
    let c = BenchRun.acceleratorC
    do {
      try c.space.create()
      try Topology.center1.attach(c.space, address: "\(c.address)/24", bridge: "br0", gateway: "10.1.0.1", port: "accc")
      try Topology.tune(c.space, gateway: "10.1.0.1")
    } catch {
      throw LabError.network("\(error)")
    }
    try await nodes.startAccelerators(
      [.b, c, .a(peers: [.b, c])], lab, program: prerequisites.program, keyFile: keyFile, folder: folder)
  }

  // MARK: Waiting

  /// Both centers are measured, so that the threshold (zero) calls for accelerators there.
  private func waitForPaths(_ controller: ControllerClient) async throws {
    _ = try await controller.wait(for: "an estimate of the paths to both centers", limit: BenchRun.readyLimit) { controller -> Bool? in
      let known = try await controller.paths().filter { $0.from.text == Nodes.accessSite && $0.roundTripMilliseconds != nil }
      return Set(known.map(\.to.text)).isSuperset(of: [Nodes.center1, Nodes.center2]) ? true : nil
    }
  }

  /// The controller knows where the guest is and where it can go, nothing is under way, and every node listens to it.
  private func waitUntilReady(_ controller: ControllerClient, here: BenchMachine.Place, nodes: Int) async throws {
    _ = try await controller.wait(for: "word that all are ready for a move", limit: BenchRun.readyLimit) { controller -> Bool? in
      guard let machine = try await controller.status().machines.first, machine.home?.text == here.site, machine.migration == nil,
        machine.places.allSatisfy({ $0.guest == ($0.site.text == here.site ? "running" : "inmigrate") }),
        try await controller.nodes().count(where: { $0.isConnected }) == nodes
      else { return nil }
      return true
    }
  }

  // MARK: A move

  private func move(
    _ machine: BenchMachine, _ streams: [BenchStream], _ controller: ControllerClient, _ hypervisors: inout Sides,
    from here: BenchMachine.Place, to there: BenchMachine.Place
  ) async throws -> BenchResult.Move {
    let known = try await controller.migrations().map(\.migration)
    let replayBefore = machine.replay
    for stream in streams { stream.sample() }
    let source = hypervisors.at(here.site)
    let destination = hypervisors.at(there.site)
    destination.sayMigration("setup")
    source.sayMigration("setup")
    for side in [source, destination] {
      side.set(migration: .object(["status": .string("active")]))
      side.sayMigration("active")
    }
    try await Task.sleep(for: .nanoseconds(settings.hold.nanoseconds))

    for stream in streams { stream.watch() }
    try machine.stop(at: here)
    let stopped = ContinuousClock.now
    source.set(status: "finish-migrate")
    source.say("STOP")
    try await Task.sleep(for: .nanoseconds(settings.downtime.nanoseconds))
    let resumed = ContinuousClock.now
    try machine.resume(at: there)
    destination.set(status: "running")
    destination.say("RESUME")
    complete(source, destination, downtime: resumed - stopped)

    let report = try await controller.wait(for: "the end of the handover", limit: BenchRun.outcomeLimit) {
      try await $0.migrations().last { !known.contains($0.migration) && BenchRun.ends.contains($0.state) }
    }
    guard report.state == HandoverOutcome.Result.completed.rawValue else {
      throw LabError.migrationFailed("the controller calls it \(report.state): \(report.reason ?? "no reason given")")
    }
    let settling = max(lab.roundTripBefore * BenchRun.settlingRoundTrips, BenchRun.leastSettling)
    try await Task.sleep(for: .nanoseconds(settling.nanoseconds))
    var gaps: [Double] = []
    for stream in streams {
      try await stream.waitForFlow(limit: BenchRun.flowLimit)
      guard let gap = stream.longestGap else { throw LabError.downloadFailed("nothing came after the move to \(there.site)") }
      gaps.append(gap.seconds * 1e3)
    }
    let deadline = ContinuousClock.now + .seconds(BenchRun.recoveryLimit.seconds)
    var recoveries: [TimeSpan] = []
    repeat {  // the agent tells its figures a moment later, and a rate is seen behind it
      try await Task.sleep(for: .milliseconds(100))
      recoveries = streams.compactMap { $0.recovery(stopped: stopped, resumed: resumed) }
    } while (recoveries.count < streams.count || machine.replay.underWay == replayBefore.underWay) && ContinuousClock.now < deadline
    let replay = machine.replay
    let client = report.clients.first
    return BenchResult.Move(
      to: there.site, interruptionMilliseconds: BenchResult.median(ofSorted: gaps.sorted()),
      sessionsMilliseconds: settings.sessions > 1 ? gaps : nil, downtimeMilliseconds: milliseconds(resumed - stopped),
      octetsSentAgain: replay.again - replayBefore.again, octetsUnderWay: replay.underWay - replayBefore.underWay,
      recoveryMilliseconds: recoveries.count == streams.count ? recoveries.map(\.milliseconds).max() : nil,
      path: describe(client?.path), resumeToGoMilliseconds: report.resumeToGoMilliseconds,
      goToConfirmedMilliseconds: client?.goToConfirmedMilliseconds)
  }

  private static let ends = Set([HandoverOutcome.Result.completed, .rolledBack, .unresolved].map(\.rawValue))

  /// As QEMU ends it: the source has left, and its figures are final.
  private func complete(_ source: BenchHypervisor, _ destination: BenchHypervisor, downtime: Duration) {
    let figures = JSON.object(["status": .string("completed"), "downtime": .integer(Int64(milliseconds(downtime)))])
    source.set(status: "postmigrate", migration: figures)
    destination.set(migration: .object(["status": .string("completed")]))
    for side in [source, destination] { side.sayMigration("completed") }
  }

  private func describe(_ path: PathChoice?) -> String {
    switch path {
    case nil: "unknown"
    case .direct?: "direct"
    case .accelerated(_, let accelerators)?: "through \(accelerators.map(\.text).joined(separator: " and "))"
    }
  }

  private func milliseconds(_ span: Duration) -> Double {
    Double(span.components.seconds) * 1e3 + Double(span.components.attoseconds) / 1e15
  }
}

extension BenchRun {
  /// The hypervisors of both centers: the guest runs at the first, and the second waits for it.
  private struct Sides {
    private var sides: [String: BenchHypervisor]

    init() throws(LabError) {
      let first = try BenchHypervisor(path: VirtualMachine.controllerSocket(Nodes.center1), status: "running")
      do {
        sides = [
          Nodes.center1: first,
          Nodes.center2: try BenchHypervisor(path: VirtualMachine.controllerSocket(Nodes.center2), status: "inmigrate"),
        ]
      } catch {
        first.end()
        throw error
      }
    }

    func at(_ site: String) -> BenchHypervisor {
      guard let side = sides[site] else { preconditionFailure("there are two centers") }
      return side
    }

    /// The process whose guest has left ends, and a new one waits for the guest's return.
    mutating func expectGuest(at site: String) throws(LabError) {
      at(site).end()
      sides[site] = try BenchHypervisor(path: VirtualMachine.controllerSocket(site), status: "inmigrate")
    }

    func end() { for side in sides.values { side.end() } }
  }
}
