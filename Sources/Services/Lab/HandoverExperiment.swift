import Authentication
import Control
import Foundation
import LinuxNetwork
import Vocabulary

/// The whole road once: an FTP download lives through a live migration.
package struct HandoverExperiment: Sendable {
  /// Where in the file the migration begins: after a quarter, so that there is enough before it and after it to measure.
  private static let beginning = 0.25
  private static let estimateLimit = TimeSpan.seconds(30 as Int64)
  private static let outcomeLimit = TimeSpan.seconds(60 as Int64)

  private let settings: LabSettings
  private let progress: RunProgress

  package init(_ settings: LabSettings, isQuiet: Bool = false) {
    self.settings = settings
    progress = RunProgress(isQuiet: isQuiet)
  }

  /// Runs it, and takes everything down again, also after an error and when the task is cancelled.
  package func run() async throws -> HandoverResult {
    try settings.check()
    let prerequisites = try Prerequisites(settings)
    let folder = try RunFolder()
    defer { folder.remove() }
    do {
      let result = try await run(prerequisites, folder)
      if let logs = settings.logFolder { folder.keepLogs(in: logs) }
      return result
    } catch {
      if let logs = settings.logFolder { folder.keepLogs(in: logs) }
      throw error
    }
  }

  private func run(_ prerequisites: Prerequisites, _ folder: RunFolder) async throws -> HandoverResult {
    progress.step("building the network: \(describeNetwork)")
    let topology = try Topology(settings)
    defer { _ = topology.stop() }
    let savedGuest = try SavedGuest(settings, prerequisites)
    let keyFile = try folder.write((savedGuest?.keyLine ?? EndpointKey.newLine()) + "\n", to: "key")
    let key = try EndpointKey(contentsOf: keyFile)
    let controller = try ControllerClient(bearerToken: key.bearerToken, folder: folder)
    let file = TestFile(octets: settings.size.octets, seed: settings.seed)
    let disk = try await NetworkDisk(file, prerequisites, folder: folder)
    let image = try GuestImage(prerequisites, in: folder, keyFile: keyFile, agentArguments: Nodes.agentArguments(settings))

    var nodes = Nodes()
    defer { nodes.end() }
    try await nodes.startControl(settings, program: prerequisites.program, keyFile: keyFile, folder: folder, onLine: showOrders)
    let qemu = prerequisites.path(of: "qemu-system-x86_64")
    let source = try await startGuest(image, savedGuest, qemu: qemu, folder: folder)
    defer { source.end() }
    progress.step("starting the client, which opens its session with the agent")
    try await nodes.startClient(settings, program: prerequisites.program, keyFile: keyFile, folder: folder)
    var destination: VirtualMachine?
    defer { destination?.end() }
    if settings.migration != .none {
      destination = try await VirtualMachine(
        at: Nodes.center2, in: Topology.center2, image: image, .incoming, usesKVM: settings.usesKVM, qemu: qemu, folder: folder)
    }
    let roundTripBefore = try await ping(Topology.guestAtCenter1)
    try await waitForEstimate(controller)
    return try await measure(
      file, disk: disk, controller: controller, source: source, destination: destination, topology: topology,
      roundTripBefore: roundTripBefore,
      folder: folder)
  }

  private var describeNetwork: String {
    let before = figure(settings.roundTripBefore.milliseconds)
    let after = figure(settings.roundTripAfter.milliseconds)
    return
      "client PC, Center 1 at \(before) ms, Center 2 at \(after) ms, \(figure(settings.rate.megabitsPerSecond)) Mbit/s, loss \(figure(settings.loss * 100)) %"
  }

  /// The controller's timeline, as its log has it: `... [Controller] EVENT`, or `... [Controller] ACTOR: EVENT`.
  private func showOrders(_ line: String) {
    guard let label = line.firstRange(of: " [Controller] ") else { return }
    progress.step(String(line[label.upperBound...]))
  }

  /// A guest at Center 1 whose disk is mounted and whose agent listens: the saved one if there is one.
  private func startGuest(_ image: GuestImage, _ saved: SavedGuest?, qemu: String, folder: RunFolder) async throws -> VirtualMachine {
    func machine(_ start: VirtualMachine.Start) async throws -> VirtualMachine {
      try await VirtualMachine(
        at: Nodes.center1, in: Topology.center1, image: image, start, usesKVM: settings.usesKVM, qemu: qemu, folder: folder)
    }
    func boot() async throws -> VirtualMachine {
      progress.step("booting the guest at Center 1")
      let guest = try await machine(.boot)
      do {
        try await guest.process.waitForLine(GuestImage.readyLine, unless: GuestImage.failure, limit: VirtualMachine.bootLimit)
        try await guest.process.waitForLine("agent ready", unless: GuestImage.failure, limit: VirtualMachine.bootLimit)
      } catch {
        guest.end()
        throw error
      }
      return guest
    }
    if let saved, !saved.exists {
      let guest = try await boot()
      defer { guest.end() }
      try await saved.keep { try await guest.save(to: $0) }
    }
    let guest: VirtualMachine
    if let saved {
      progress.step("resuming the saved guest at Center 1")
      guest = try await machine(.saved(saved.stateFile))
    } else {
      guest = try await boot()
    }
    do {
      try await guest.mountDisk()
    } catch {
      guest.end()
      throw error
    }
    return guest
  }

  private func waitForEstimate(_ controller: ControllerClient) async throws {
    let path = try await controller.wait(for: "an estimate of the path to Center 2", limit: HandoverExperiment.estimateLimit) {
      try await $0.paths().first { $0.from.text == Nodes.accessSite && $0.to.text == Nodes.center2 && $0.roundTripMilliseconds != nil }
    }
    progress.step("the controller has measured the path to Center 2: \(figure(path.roundTripMilliseconds ?? 0)) ms")
  }

  /// The least of three round trips from the client's PC, in milliseconds; nil if nothing answers.
  private func ping(_ address: String) async throws -> Double? {
    let command = Topology.pc.command(["ping", "-n", "-q", "-c", "3", "-i", "0.2", "-W", "3", address])
    guard let text = try? await onThread({ try Shell.run(command) }) else { return nil }
    // rtt min/avg/max/mdev = 300.1/300.2/300.4/0.1 ms
    return text.split(separator: "\n").last { $0.hasPrefix("rtt ") }?.split(separator: " = ").last?.split(separator: "/").first
      .flatMap { Double($0) }
  }
}

// MARK: - The measurement

extension HandoverExperiment {
  private func measure(
    _ file: TestFile, disk: NetworkDisk, controller: ControllerClient, source: VirtualMachine, destination: VirtualMachine?,
    topology: Topology, roundTripBefore: Double?, folder: RunFolder
  ) async throws -> HandoverResult {
    progress.step("curl downloads \(file.octets) octets from ftp://vm/ through the client")
    let download = try Download(of: file, name: NetworkDisk.fileName, proxy: Nodes.socks, folder: folder)
    defer { download.stop() }
    var events: [HandoverResult.Event] = []
    func note(_ actor: String, _ event: String) { events.append(HandoverResult.Event(t: download.seconds, actor: actor, event: event)) }
    note("lab", "download begins")
    var begunAt: Double?
    var wouldBegin = 0.0
    var migrating: Task<LiveMigration.Ending, any Error>?
    defer { migrating?.cancel() }
    for await octets in download.progress {
      progress.live(octets, of: file.octets, at: download.seconds)
      guard wouldBegin == 0, Double(octets) >= HandoverExperiment.beginning * Double(file.octets) else { continue }
      wouldBegin = download.seconds
      guard let destination else { continue }
      begunAt = wouldBegin
      note("lab", "the live migration is commanded")
      migrating = Task { try await migrate(from: source, to: destination) }
    }
    try Task.checkCancellation()
    let outcome = try await download.finish(limit: .seconds(60 as Int64))
    events.append(HandoverResult.Event(t: outcome.totalSeconds, actor: "lab", event: "download ends"))
    guard outcome.status == 0 else { throw LabError.downloadFailed("curl ended with status \(outcome.status): \(outcome.complaint)") }
    if let migrating { try await check(try await migrating.value) }
    let report = destination == nil ? nil : try await awaitOutcome(controller)
    let roundTripAfter = try await ping(
      report?.state == HandoverOutcome.Result.completed.rawValue ? Topology.guestAtCenter2 : Topology.guestAtCenter1)
    for entry in try await controller.timeline() {
      let t = Double(entry.atMicroseconds - download.startedAtMicroseconds) / 1e6
      if t >= 0 { events.append(HandoverResult.Event(t: t, actor: entry.actor, event: entry.event)) }
    }
    guard let figures = DownloadFigures(outcome.reads, migration: begunAt, wouldBegin: wouldBegin) else {
      throw LabError.downloadFailed("only \(outcome.verdict.octets) octets came")
    }
    events.append(HandoverResult.Event(t: figures.gapStart, actor: "application", event: "the longest gap begins"))
    events.append(HandoverResult.Event(t: figures.gapEnd, actor: "application", event: "the longest gap ends"))
    return result(
      outcome, figures, digest: disk.digest, report: report, roundTrips: (roundTripBefore, roundTripAfter), topology: topology,
      events: events.enumerated().sorted { ($0.element.t, $0.offset) < ($1.element.t, $1.offset) }.map(\.element))
  }

  private func migrate(from source: VirtualMachine, to destination: VirtualMachine) async throws -> LiveMigration.Ending {
    let migration = try await LiveMigration(from: source, to: destination, settings)
    progress.step("QEMU copies the guest's memory to Center 2")
    let progress = self.progress
    defer { progress.memory(nil) }
    async let ending = migration.ending { share in progress.memory(share) }
    if settings.migration == .cancel || settings.migration == .killDestination { try await migration.interrupt(settings.migration) }
    return try await ending
  }

  private func check(_ ending: LiveMigration.Ending) async throws {
    switch (ending, settings.migration) {
    case (.completed, .complete), (.cancelled, .cancel), (.failed, .killDestination): return
    case (.completed, _): throw LabError.migrationFailed("it was over before it could be interrupted: try a larger --size")
    case (.cancelled, _): throw LabError.migrationFailed("somebody else cancelled it")
    case (.failed(let reason), _): throw LabError.migrationFailed(reason)
    }
  }

  private func awaitOutcome(_ controller: ControllerClient) async throws -> MigrationReport {
    let ends = Set([HandoverOutcome.Result.completed, .rolledBack, .unresolved].map(\.rawValue))
    return try await controller.wait(for: "the end of the handover", limit: HandoverExperiment.outcomeLimit) {
      try await $0.migrations().last { ends.contains($0.state) }
    }
  }

  private func result(
    _ outcome: Download.Outcome, _ figures: DownloadFigures, digest: String, report: MigrationReport?, roundTrips: (Double?, Double?),
    topology: Topology, events: [HandoverResult.Event]
  ) -> HandoverResult {
    let client = report?.clients.first
    var isInserted = false
    if case .accelerated? = client?.path, client?.goToConfirmedMilliseconds != nil { isInserted = true }
    let goTaken = client.flatMap { client in
      client.stampedResumeToMovedMilliseconds.flatMap { moved in client.goToConfirmedMilliseconds.map { moved - $0 } }
    }
    return HandoverResult(
      settings: HandoverResult.Settings(
        sizeOctets: settings.size.octets, rateMbps: settings.rate.megabitsPerSecond,
        roundTripBeforeMilliseconds: settings.roundTripBefore.milliseconds,
        roundTripAfterMilliseconds: settings.roundTripAfter.milliseconds,
        lossPercent: settings.loss * 100, endpointWindowOctets: settings.endpointWindow,
        migrationRateMbps: settings.migrationRate.megabitsPerSecond, seed: settings.seed, migration: settings.migration.rawValue,
        accelerators: settings.usesAccelerators),
      bytes: outcome.verdict.octets, sha256: outcome.verdict.digest, sha256Matches: outcome.verdict.digest == digest,
      bytesLost: outcome.verdict.lost, bytesDuplicated: outcome.verdict.duplicated, applicationConnections: outcome.connections,
      rttBeforeMilliseconds: roundTrips.0, rttAfterMilliseconds: roundTrips.1, rateBeforeMbps: figures.rateBefore,
      rateDuringMbps: figures.rateDuring, rateAfterMbps: figures.rateAfter, acceleratorInserted: isInserted,
      insertionReason: client?.pathReason, migrationOutcome: report?.state,
      hypervisorDowntimeMilliseconds: report?.stopToResumeMilliseconds,
      hypervisorReportedDowntimeMilliseconds: report?.figures.downtimeMilliseconds,
      migrationTotalMilliseconds: report?.figures.totalMilliseconds, migrationOctets: report?.figures.transferredOctets,
      interruptionMilliseconds: (figures.gapEnd - figures.gapStart) * 1e3, goLatencyMilliseconds: goTaken,
      goToConfirmedMilliseconds: client?.goToConfirmedMilliseconds, downloadSeconds: outcome.totalSeconds,
      dataPhaseSeconds: figures.dataPhase,
      timeline: events, throughput: DownloadFigures.samples(of: outcome.reads), wan: topology.stop())
  }
}

/// One digit behind the point, none where it is zero.
private func figure(_ value: Double) -> String {
  value == value.rounded() ? "\(Int(value))" : String(format: "%.1f", value)
}
