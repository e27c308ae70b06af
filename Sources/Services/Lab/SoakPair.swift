import Authentication
import Foundation
import Synchronization
import Vocabulary

/// The two accelerators of a soak, each killed and started again now and then, and what they have used in each of their lives.
final class SoakPair: Sendable {
  private struct Running {
    var process: ChildProcess
    var since: ContinuousClock.Instant
    /// Seconds of its life, and MB resident.
    var samples: [(seconds: Double, megabytes: Double)] = []
    var peak = 0.0
    var cpuSeconds = 0.0
  }

  private struct State {
    var running: [String: Running] = [:]
    var ended: [AcceleratorSoak.Life] = []
  }

  private static let readyLimit = TimeSpan.seconds(20 as Int64)
  /// A slope needs some samples, one a second.
  private static let leastForSlope = 20.0

  private let pair: LonghaulPair
  private let state = Mutex(State())

  init(_ places: RelayPlaces, program: String, options: [String], connections: Int) throws {
    let keyFile = "\(places.folder)/key"
    try Data((EndpointKey.newLine() + "\n").utf8).write(to: URL(fileURLWithPath: keyFile))
    try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: keyFile)
    pair = LonghaulPair(
      places: places, program: program, keyFile: keyFile, options: options, connections: connections, port: places.port)
  }

  var entrance: Endpoint { pair.entrance }

  func start() async throws {
    try await restart(.far)
    try await restart(.near)
    let near = state.withLock { $0.running[SoakLedger.Side.near.name]?.process }
    try await near?.waitForLine("tunnel to b is up", limit: Self.readyLimit)
  }

  func restart(_ side: SoakLedger.Side) async throws {
    let process = try await side == .far ? pair.startFar() : pair.startNear(warms: false)
    state.withLock { $0.running[side.name] = Running(process: process, since: .now) }
  }

  /// With SIGKILL.
  func kill(_ side: SoakLedger.Side) {
    sample()
    let running = state.withLock { state -> Running? in
      guard let running = state.running.removeValue(forKey: side.name) else { return nil }
      state.ended.append(life(side.name, running))
      return running
    }
    running?.process.end()
  }

  func end() { for side in [SoakLedger.Side.near, .far] { kill(side) } }

  /// Throws if one has ended by itself.
  func check() throws(LabError) {
    let processes = state.withLock { $0.running.values.map(\.process) }
    for process in processes where !process.isRunning {
      throw .partFailed(process.name, what: "ended with status \(process.status ?? -1)", log: process.lastLines)
    }
  }

  func sample() {
    state.withLock { state in
      for (name, running) in state.running {
        let usage = ProcessUsage(of: [running.process.pid])
        guard usage.residentOctets > 0 else { continue }
        state.running[name]?.samples.append((seconds(since: running.since), Double(usage.residentOctets) / 1e6))
        state.running[name]?.peak = Double(usage.peakOctets) / 1e6
        state.running[name]?.cpuSeconds = usage.cpuSeconds
      }
    }
  }

  var lives: [AcceleratorSoak.Life] {
    state.withLock { state in state.ended + state.running.sorted { $0.key < $1.key }.map { life($0.key, $0.value) } }
  }

  var descriptors: [String: Int] { state.withLock { $0.running.mapValues { ProcessUsage(of: [$0.process.pid]).descriptors } } }
  var resident: [String: Double] {
    state.withLock { $0.running.mapValues { Double(ProcessUsage(of: [$0.process.pid]).residentOctets) / 1e6 } }
  }

  private func life(_ name: String, _ running: Running) -> AcceleratorSoak.Life {
    let length = seconds(since: running.since)
    return AcceleratorSoak.Life(
      node: name, seconds: length, peakMegabytes: running.peak,
      slopeMegabytesPerMinute: length < Self.leastForSlope ? nil : Self.slope(running.samples.filter { $0.seconds >= length / 2 }) * 60,
      cpuSeconds: running.cpuSeconds)
  }

  /// Of the line through the points that is nearest to them (least squares).
  static func slope(_ points: [(seconds: Double, megabytes: Double)]) -> Double {
    guard points.count > 1 else { return 0 }
    let count = Double(points.count)
    let meanX = points.reduce(0) { $0 + $1.seconds } / count
    let meanY = points.reduce(0) { $0 + $1.megabytes } / count
    let spread = points.reduce(0) { $0 + ($1.seconds - meanX) * ($1.seconds - meanX) }
    let together = points.reduce(0) { $0 + ($1.seconds - meanX) * ($1.megabytes - meanY) }
    return spread > 0 ? together / spread : 0
  }
}
