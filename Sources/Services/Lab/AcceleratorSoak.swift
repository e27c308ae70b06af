import Foundation
import LinuxNetwork
import NIOCore
import NIOPosix
import Sockets
import Vocabulary

/// Thousands of connections at a time through a pair of accelerators on loopback, with checked contents, aborts and pauses, while one or the other accelerator is killed and started again.
package struct AcceleratorSoak: Sendable {
  package struct Settings: Sendable, Hashable {
    /// Connections at a time.
    package var flows = 5_000
    package var length = TimeSpan.seconds(600 as Int64)
    /// kill -9 of one accelerator, in turns; zero: never.
    package var killEvery = TimeSpan.seconds(30 as Int64)
    /// The longest that the pauses of one connection come to.
    package var longestPauses = TimeSpan.seconds(20 as Int64)
    package var seed: UInt64 = 1
    /// Without accelerators, to try the soak itself.
    package var isDirect = false
    /// Further options of both accelerators.
    package var options: [String] = []
    package var program: String?
    package var logFolder: String?

    package init() {}

    package func check() throws(LabError) {
      guard (1...20_000).contains(flows) else { throw .badSetting("--flows", "must be from 1 to 20000") }
      guard length >= .seconds(1 as Int64), length <= .seconds(864_000 as Int64) else {
        throw .badSetting("--minutes", "must be from one second to ten days")
      }
      guard killEvery == .zero || killEvery >= .seconds(15 as Int64) else {
        throw .badSetting("--kill-every", "must be 0 (never), or at least 15 s, so that connections have ended before the next")
      }
      guard longestPauses >= .zero, longestPauses <= .seconds(3_600 as Int64) else {
        throw .badSetting("--pauses", "must be from 0 to 3600 s")
      }
    }
  }

  /// One process from its start to its end.
  package struct Life: Codable, Sendable {
    package var node: String
    package var seconds: Double
    package var peakMegabytes: Double
    /// Resident, over the second half of its life: the slope of a line through the samples. Of a life shorter than 20 s there is none.
    package var slopeMegabytesPerMinute: Double?
    package var cpuSeconds: Double
  }

  package struct Result: Codable, Sendable {
    package var longhaul: String
    package var kernel: String
    package var flows: Int
    package var seconds: Double
    package var killEverySeconds: Double
    package var seed: UInt64
    package var connections: UInt64
    package var mostAtATime: Int
    package var octets: Int
    /// How the two ends saw their connections end.
    package var endings: [String: Int]
    package var kills: Int
    package var lives: [Life]
    /// When all connections have ended: what is still open in each process, against what it had with none.
    package var descriptorsBefore: [String: Int]
    package var descriptorsAfter: [String: Int]
    package var residentMegabytesAfter: [String: Double]
    package var faultCount: Int
    package var faults: [String]
    package var load: Double
  }

  /// A killed accelerator is away for so long.
  private static let away = TimeSpan.milliseconds(500 as Int64)
  /// What was open when an accelerator was killed has ended by then: a RST takes no time, but a client of the plan may read nothing for two seconds.
  private static let endLimit = TimeSpan.seconds(10 as Int64)
  /// New connections in a tick of 10 ms: 500 a second, which is no load for a listener on a busy machine either.
  private static let newAtOnce = 5
  private static let tick = TimeSpan.milliseconds(10 as Int64)
  /// After the last connection was begun: its pauses, and as long again on a busy machine.
  private static let drainFactor: Int64 = 2
  private static let leastDrain = TimeSpan.seconds(15 as Int64)
  /// A tunnel carries 1,024 flows a connection; half as many again, since they are spread by how they come and go.
  private static let flowsPerConnection = 700
  /// A client waits for its answer to CONNECT as long as for a peer that is away, and a connection of the plan pauses.
  private static let connectLimit = TimeAmount.seconds(10)

  private let settings: Settings
  private let progress: RunProgress

  package init(_ settings: Settings, isQuiet: Bool = false) {
    self.settings = settings
    progress = RunProgress(isQuiet: isQuiet)
  }

  package func run() async throws -> Result {
    try settings.check()
    let descriptors = FileLimit.raise()
    // The two ends of each are in this process; those that are just ending are some more.
    let needed = settings.flows * 5 / 2 + 200
    guard descriptors >= needed else {
      throw LabError.badSetting(
        "--flows",
        "\(settings.flows) need \(needed) descriptors in one process, and the limit is \(descriptors): raise it (ulimit -Hn), or ask for fewer"
      )
    }
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-soak-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    defer {
      if let logs = settings.logFolder { RunFolder.keepLogs(of: "", from: folder, in: logs) }
      try? FileManager.default.removeItem(atPath: folder)
    }
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    do {
      let result = try await run(on: group, folder)
      try await group.shutdownGracefully()
      return result
    } catch {
      try? await group.shutdownGracefully()
      throw error
    }
  }

  private func run(on group: MultiThreadedEventLoopGroup, _ folder: String) async throws -> Result {
    let ledger = SoakLedger()
    let server = try await listen(on: group, ledger)
    guard let target = server.localAddress?.vocabulary else { throw LabError.network("the soak's server has no address") }
    let places = RelayPlaces(
      nearAddress: "127.0.0.1", farAddress: "127.0.0.1", server: target, prefix: "127.0.0.1/32", roundTrip: .zero, folder: folder,
      port: try LabSocket.freePorts(2))
    let pair = try SoakPair(
      places, program: settings.program ?? Prerequisites.ownPath, options: settings.options,
      connections: min(max(settings.flows / Self.flowsPerConnection + 1, 4), 64))
    defer { pair.end() }
    try await pair.start()
    let before = pair.descriptors
    let entrance = settings.isDirect ? target : pair.entrance
    progress.step("\(settings.flows) connections at a time through \(entrance) to \(target)")
    let started = ContinuousClock.now
    let end = started + .nanoseconds(settings.length.nanoseconds)
    var number: UInt64 = 0
    var kills = 0
    var nextKill = settings.killEvery == .zero ? nil : Optional(started + .nanoseconds(settings.killEvery.nanoseconds))
    var nextSample = started
    while ContinuousClock.now < end {
      for _ in 0..<min(max(settings.flows - ledger.aliveCount, 0), Self.newAtOnce) {
        number += 1
        open(number, entrance, target, on: group, ledger)
      }
      try await Task.sleep(for: .nanoseconds(Self.tick.nanoseconds))
      let now = ContinuousClock.now
      if now >= nextSample {
        nextSample = now + .seconds(1)
        pair.sample()
        try pair.check()
        if Int(seconds(since: started)) % 10 == 0 { tell(ledger, number, pair) }
      }
      if let due = nextKill, now >= due, now + .nanoseconds(Self.endLimit.nanoseconds) < end {
        nextKill = due + .nanoseconds(settings.killEvery.nanoseconds)
        kills += 1
        try await kill(kills % 2 == 1 ? .near : .far, pair, ledger)
      }
    }
    try await drain(ledger)
    let after = pair.descriptors
    pair.sample()
    let faults = ledger.faults
    try? await server.close()
    return Result(
      longhaul: "0.1.0", kernel: AcceleratorBenchResult.kernelVersion, flows: settings.flows, seconds: seconds(since: started),
      killEverySeconds: settings.killEvery.seconds, seed: settings.seed, connections: number, mostAtATime: ledger.mostAlive,
      octets: ledger.octets, endings: ledger.endings, kills: kills, lives: pair.lives, descriptorsBefore: before, descriptorsAfter: after,
      residentMegabytesAfter: pair.resident, faultCount: faults.count, faults: faults.first, load: AcceleratorBenchResult.load)
  }

  private func tell(_ ledger: SoakLedger, _ number: UInt64, _ pair: SoakPair) {
    let resident = pair.resident
    progress.step(
      "\(ledger.aliveCount) open, \(number) begun, \(ledger.octets / 1_000_000) MB, \(ledger.faults.count) faults; resident a \(Int(resident["a"] ?? 0)), b \(Int(resident["b"] ?? 0)) MB"
    )
  }

  // MARK: Kills

  /// kill -9, and the same program again after a moment. What was open must end, whether it was broken or not.
  private func kill(_ side: SoakLedger.Side, _ pair: SoakPair, _ ledger: SoakLedger) async throws {
    let moment = SoakEnd.now()
    ledger.killed(at: moment)
    pair.kill(side)
    progress.step("killed \(side.name)")
    try await Task.sleep(for: .nanoseconds(Self.away.nanoseconds))
    try await pair.restart(side)
    ledger.restored(at: SoakEnd.now())
    let deadline = ContinuousClock.now + .nanoseconds(Self.endLimit.nanoseconds)
    while !ledger.running(since: moment).isEmpty {
      guard ContinuousClock.now < deadline else {
        let stuck = ledger.running(since: moment)
        ledger.fault(
          "\(stuck.count) connections that were open when \(side.name) was killed have not ended \(Self.endLimit.seconds) s later, number \(stuck[0]) among them"
        )
        return
      }
      try await Task.sleep(for: .nanoseconds(Self.tick.nanoseconds))
    }
  }

  /// Until every connection has ended at both ends; what has not is stuck.
  private func drain(_ ledger: SoakLedger) async throws {
    let limit = max(settings.longestPauses * Self.drainFactor, Self.leastDrain)
    let deadline = ContinuousClock.now + .nanoseconds(limit.nanoseconds)
    while ledger.aliveCount > 0 || ledger.servingCount > 0, ContinuousClock.now < deadline {
      try await Task.sleep(for: .nanoseconds(Self.tick.nanoseconds))
    }
    let stuck = ledger.open
    if let first = stuck.first {
      ledger.fault("\(stuck.count) connections have not ended within \(limit.seconds) s, number \(first) among them")
    }
    if ledger.servingCount > 0 {
      ledger.fault("\(ledger.servingCount) connections have not ended at the server within \(limit.seconds) s")
    }
    // Closing takes the accelerators a moment more.
    try await Task.sleep(for: .seconds(1))
  }

  // MARK: Connections

  private func listen(on group: MultiThreadedEventLoopGroup, _ ledger: SoakLedger) async throws -> any Channel {
    let role = SoakEnd.Role.server(seed: settings.seed, longestSeconds: settings.longestPauses.seconds)
    do {
      return try await ServerBootstrap(group: group)
        .serverChannelOption(.backlog, value: 4_096)
        .childChannelOption(.allowRemoteHalfClosure, value: true)
        .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
        .childChannelInitializer { channel in
          channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(SoakEnd(role, ledger)) }
        }
        .bind(host: "127.0.0.1", port: 0).get()
    } catch {
      throw LabError.network("the soak's server cannot listen: \(error)")
    }
  }

  private func open(
    _ number: UInt64, _ entrance: Endpoint, _ target: Endpoint, on group: MultiThreadedEventLoopGroup, _ ledger: SoakLedger
  ) {
    let role = SoakEnd.Role.client(
      SoakPlan(number: number, seed: settings.seed, longestSeconds: settings.longestPauses.seconds),
      target: settings.isDirect ? nil : target)
    ledger.began(number, at: SoakEnd.now())
    guard let address = try? SocketAddress(entrance) else { preconditionFailure("an address that was listened on") }
    ClientBootstrap(group: group)
      .connectTimeout(Self.connectLimit)
      .channelOption(.allowRemoteHalfClosure, value: true)
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(SoakEnd(role, ledger)) }
      }
      .connect(to: address)
      .whenFailure { error in ledger.ended(number, .refused, "\(error)", at: SoakEnd.now()) }
  }
}

extension AcceleratorSoak.Result {
  /// Descriptors that an accelerator has more than before: tunnels that have been dialled again may come and go while it is looked.
  private static let descriptorMargin = 16

  package var allFaults: [String] {
    var all = faults
    for (node, after) in descriptorsAfter.sorted(by: { $0.key < $1.key }) {
      guard let before = descriptorsBefore[node], after > before + Self.descriptorMargin else { continue }
      all.append("\(node) has \(after) descriptors open with no connection left, and had \(before)")
    }
    return all
  }

  package var report: String {
    var lines = [
      String(
        format: "%d connections in %.0f s, at most %d at a time, %d kills; %.2f GB received; seed %d; load %.1f", connections, seconds,
        mostAtATime,
        kills, Double(octets) / 1e9, seed, load)
    ]
    lines += endings.sorted { $0.key < $1.key }.map { "  \($0.key): \($0.value)" }
    lines += ["", "| process | lived s | peak MB | slope MB/min, second half | CPU s |", "|---|---|---|---|---|"]
    lines += lives.map { life in
      String(
        format: "| %@ | %.0f | %.0f | %@ | %.0f |", life.node, life.seconds, life.peakMegabytes,
        life.slopeMegabytesPerMinute.map { String(format: "%.1f", $0) } ?? "-", life.cpuSeconds)
    }
    lines.append("")
    for (node, after) in descriptorsAfter.sorted(by: { $0.key < $1.key }) {
      lines.append(
        "\(node): \(descriptorsBefore[node] ?? 0) descriptors before, \(after) after; \(Int(residentMegabytesAfter[node] ?? 0)) MB resident after"
      )
    }
    if faultCount > 0 || !allFaults.isEmpty {
      lines.append("")
      lines += allFaults.map { "FAULT: \($0)" }
      if faultCount > faults.count { lines.append("FAULT: and \(faultCount - faults.count) more") }
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
