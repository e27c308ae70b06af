import LinuxNetwork
import Vocabulary

/// What the accelerators of a program can be told: it is asked, so that an older one can be measured beside a newer one.
struct AcceleratorFeatures: Sendable {
  var hasCache: Bool
  var hasWarming: Bool

  init(_ program: String) {
    // `run` is a word of its own since there are others beside it.
    let help =
      (try? Shell.run([program, "accelerator", "run", "--help"])) ?? (try? Shell.run([program, "accelerator", "--help"])) ?? ""
    hasCache = help.contains("--cache ")
    hasWarming = help.contains("--keep-warm")
  }

  /// TCP acceleration alone.
  var withoutCodec: [String] { ["--no-compression"] + (hasCache ? ["--no-cache"] : []) }
}

/// Two accelerators, a near the applications and b near the targets, as docs/operations/accelerator.md starts them.
struct LonghaulPair: Sendable {
  private static let readyLimit = TimeSpan.seconds(20 as Int64)

  var places: RelayPlaces
  var program: String
  var keyFile: String
  var options: [String]
  var connections: Int
  /// The first of two: b's tunnels, and a's entrance.
  var port: Int

  var entrance: Endpoint { Endpoint("\(places.nearAddress):\(port + 1)") ?? places.server }
  private var tunnel: String { "\(places.farAddress):\(port)" }

  /// 96 %, so that a full link has no queue (the tunnel's own frames and TCP's headers are in what is paced).
  private var rateLimit: [String] { places.rate.map { ["--rate-limit", "\($0.megabitsPerSecond * 0.96)"] } ?? [] }

  /// Each has a cache of its own, unless the options say that there is none.
  private func cache(_ name: String) -> [String] {
    AcceleratorFeatures(program).hasCache && !options.contains("--no-cache")
      ? ["--cache", "\(places.folder)/cache-\(name)"] : []
  }

  func startFar() async throws -> ChildProcess {
    let words =
      [program, "accelerator", "--node", "b", "--key-file", keyFile, "--tunnel", tunnel] + rateLimit + cache("b") + options
    let process = try ChildProcess("accelerator b", places.far(words), log: "\(places.folder)/accelerator-b.log")
    try await ready(process)
    return process
  }

  func startNear(warms: Bool) async throws -> ChildProcess {
    var words = [program, "accelerator", "--node", "a", "--key-file", keyFile, "--entrance", "\(entrance)", "--peer", "b=\(tunnel)"]
    words += ["--route", "\(places.prefix)=b", "--connections", "\(connections)"] + rateLimit + cache("a") + options
    if warms { words.append("--keep-warm") }
    let process = try ChildProcess("accelerator a", places.near(words), log: "\(places.folder)/accelerator-a.log")
    try await ready(process)
    return process
  }

  private func ready(_ process: ChildProcess) async throws {
    do {
      try await process.waitForLine("accelerator ready", limit: LonghaulPair.readyLimit)
    } catch {
      process.end()
      throw error
    }
  }
}
