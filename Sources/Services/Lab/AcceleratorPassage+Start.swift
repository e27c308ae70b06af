import Authentication
import Foundation
import LinuxNetwork
import Vocabulary

/// Where the two relays of a way stand.
struct RelayPlaces: Sendable {
  var nearSpace: Namespace?
  var farSpace: Namespace?
  var nearAddress: String
  var farAddress: String
  var client: Namespace?
  var server: Endpoint
  /// The targets that lie behind the far one.
  var prefix: String
  /// Of the WAN; nil on loopback.
  var rate: BitRate?
  var roundTrip: TimeSpan
  /// Where logs, keys and caches go.
  var folder: String
  /// The first of two, for the relays.
  var port = 7_700

  func near(_ words: [String]) -> [String] { nearSpace?.command(words) ?? words }
  func far(_ words: [String]) -> [String] { farSpace?.command(words) ?? words }
}

extension AcceleratorPassage {
  private static let readyLimit = TimeSpan.seconds(20 as Int64)
  /// Four connections are warmed one after another, each with 2 x bandwidth x delay of padding and at most 15 round trips of slow start: 4 x (1 + 7.5 s) at 500 ms.
  private static let warmLimit = TimeSpan.seconds(60 as Int64)
  private static let connections = 4

  /// Starts it and waits until connections can be made through it.
  static func start(
    _ way: AcceleratorWay, _ places: RelayPlaces, program: String, options: [String] = [], connections: Int = connections,
    mayWarm: Bool = true
  ) async throws -> AcceleratorPassage {
    var passage = AcceleratorPassage(way: way, entry: places.server, client: places.client)
    do {
      switch way {
      case .narrow, .cubic, .bbr: break
      case .longhaul, .plain:
        let codec = way == .plain ? AcceleratorFeatures(program).withoutCodec : []
        try await passage.startLonghaul(
          places, program, codec + options, connections: connections, warms: mayWarm && places.rate != nil)
      case .haproxy, .socat, .kcptun: try await passage.startRelays(places)
      }
    } catch {
      passage.end()
      throw error
    }
    return passage
  }

  // MARK: Longhaul

  private mutating func startLonghaul(_ places: RelayPlaces, _ program: String, _ options: [String], connections: Int, warms: Bool)
    async throws
  {
    try FileManager.default.createDirectory(atPath: places.folder, withIntermediateDirectories: true)
    let keyFile = "\(places.folder)/key"
    if !FileManager.default.fileExists(atPath: keyFile) {
      try Data((EndpointKey.newLine() + "\n").utf8).write(to: URL(fileURLWithPath: keyFile))
      try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: keyFile)
    }
    let pair = LonghaulPair(
      places: places, program: program, keyFile: keyFile, options: options, connections: connections, port: places.port)
    far = [try await pair.startFar()]
    near = [try await pair.startNear(warms: warms)]
    entry = pair.entrance
    target = places.server
    // Flows may be opened from here on.
    try await near[0].waitForLine("tunnel to b is up", limit: Self.readyLimit)
    guard warms else { return }
    let deadline = ContinuousClock.now + .nanoseconds(Self.warmLimit.nanoseconds)
    for process in near + far {
      while process.lines(with: "warm: cwnd").count < connections {
        try check()
        guard ContinuousClock.now < deadline else {
          throw LabError.partFailed(process.name, what: "did not warm \(connections) connections", log: process.lastLines)
        }
        try await Task.sleep(for: .milliseconds(20))
      }
    }
  }

  // MARK: Others

  private mutating func startRelays(_ places: RelayPlaces) async throws {
    try FileManager.default.createDirectory(atPath: places.folder, withIntermediateDirectories: true)
    let port = places.port
    let nearPlace = "\(places.nearAddress):\(port)"
    // On loopback both have the same address.
    let farPlace = "\(places.farAddress):\(port + 1)"
    let (nearCommand, farCommand): ([String], [String])
    switch way {
    case .haproxy:
      farCommand = ["haproxy", "-db", "-f", try haproxyFile(places, "far", listen: farPlace, to: "\(places.server)")]
      nearCommand = ["haproxy", "-db", "-f", try haproxyFile(places, "near", listen: nearPlace, to: farPlace)]
    case .socat:
      farCommand = socat(farPlace, "\(places.server)")
      nearCommand = socat(nearPlace, farPlace)
    default:
      // Its windows count segments of 1,350 octets: twice bandwidth x delay, as its manual says to set them; its "fast2", and no compression on top.
      let window = max((places.rate ?? .megabitsPerSecond(1_000)).bytes(in: places.roundTrip * 2).octets / 1_350, 1_024)
      let shared = [
        "--mode", "fast2", "--nocomp", "--sndwnd", "\(window)", "--rcvwnd", "\(window)", "--sockbuf", "16777216", "--smuxver", "2",
      ]
      farCommand = ["kcptun-server", "-l", farPlace, "-t", "\(places.server)"] + shared
      nearCommand = ["kcptun-client", "-l", nearPlace, "-r", farPlace] + shared
    }
    far = [try ChildProcess("far \(way.rawValue)", places.far(farCommand), log: "\(places.folder)/far-\(way.rawValue).log")]
    near = [try ChildProcess("near \(way.rawValue)", places.near(nearCommand), log: "\(places.folder)/near-\(way.rawValue).log")]
    guard let entry = Endpoint(nearPlace), let farEntry = Endpoint(farPlace) else { throw LabError.network("\(nearPlace) is no address") }
    self.entry = entry
    if way != .kcptun { try await waitForListener(farEntry, in: places.farSpace) }
    try await waitForListener(entry, in: places.nearSpace)
  }

  private func waitForListener(_ endpoint: Endpoint, in space: Namespace?) async throws {
    let deadline = ContinuousClock.now + .nanoseconds(Self.readyLimit.nanoseconds)
    while true {
      try check()
      let isThere = try await LabSocket.onThread(in: space) { () -> Bool in
        guard let connection = try? LabSocket.connect(to: endpoint, limit: .seconds(1 as Int64)) else { return false }
        close(connection)
        return true
      }
      if isThere { return }
      guard ContinuousClock.now < deadline else { throw LabError.partFailed(way.rawValue, what: "does not listen on \(endpoint)", log: []) }
      try await Task.sleep(for: .milliseconds(20))
    }
  }

  private func socat(_ listen: String, _ to: String) -> [String] {
    let parts = listen.split(separator: ":")
    return ["socat", "-b", "262144", "TCP4-LISTEN:\(parts[1]),bind=\(parts[0]),fork,reuseaddr,nodelay", "TCP4:\(to),nodelay"]
  }

  private func haproxyFile(_ places: RelayPlaces, _ name: String, listen: String, to: String) throws -> String {
    let path = "\(places.folder)/haproxy-\(name).cfg"
    let text = """
      global
        maxconn 4000
        nbthread 1
        tune.bufsize 262144
      defaults
        mode tcp
        timeout connect 20s
        timeout client 300s
        timeout server 300s
      listen relay
        bind \(listen)
        option splice-auto
        server next \(to)

      """
    try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    return path
  }
}
