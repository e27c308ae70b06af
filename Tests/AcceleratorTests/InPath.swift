import Accelerator
import Foundation
import LinuxNetwork
import Logging
import TestSupport
import Testing
import Vocabulary

/// Whether this process may make network namespaces and rules in them; tests that need them are skipped without, and say why.
let mayIntercept: Bool = geteuid() == 0 && Shell.find("ip") != nil && Shell.find("nft") != nil

/// A client and a server that know of no accelerator, and two machines on the way between them: client - a - b - server.
struct InPath: Sendable {
  /// Of this process alone: several may test on one machine.
  private static let prefix = "lhpath\(getpid())"
  let client = Namespace("\(prefix)-c")
  let a = Namespace("\(prefix)-a")
  let b = Namespace("\(prefix)-b")
  let server = Namespace("\(prefix)-s")
  var all: [Namespace] { [client, a, b, server] }

  static let clientHost: UInt32 = 0x0ad3_0102  // 10.211.1.2
  static let serverHost: UInt32 = 0x0ad3_0302
  static let hostOfA: UInt32 = 0x0ad3_0201
  static let hostOfB: UInt32 = 0x0ad3_0301
  static let entrance = Endpoint("127.0.0.1:3129")!
  static let tunnel = Endpoint("10.211.2.2:7700")!
  static let prefixOfServer = IPPrefix("10.211.3.0/24")!

  static var rulesOfA: InterceptionRules {
    InterceptionRules(family: .v4, listener: entrance, interfaces: ["lan"], prefixes: [prefixOfServer])
  }
  static let rulesOfB = InterceptionRules(family: .v4, listener: nil, interfaces: [], prefixes: [])

  static func with(_ body: @escaping @Sendable (InPath) async throws -> Void) async throws {
    for old in Namespace.all(prefix: "lhpath") {  // of a process that was killed
      let pid = old.name.dropFirst("lhpath".count).prefix { $0.isNumber }
      if let pid = pid_t(pid), kill(pid, 0) != 0 { old.delete() }
    }
    let path = InPath()
    for host in path.all {
      host.delete()
      try host.create()
    }
    defer { for host in path.all { host.delete() } }
    try Namespace.connect((path.client, device: "eth0", address: "10.211.1.2/24"), (path.a, device: "lan", address: "10.211.1.1/24"))
    try Namespace.connect((path.a, device: "wan", address: "10.211.2.1/24"), (path.b, device: "wan", address: "10.211.2.2/24"))
    try Namespace.connect((path.b, device: "lan", address: "10.211.3.1/24"), (path.server, device: "eth0", address: "10.211.3.2/24"))
    try path.client.ip("route", "add", "default", "via", "10.211.1.1")
    try path.a.ip("route", "add", "10.211.3.0/24", "via", "10.211.2.2")
    try path.b.ip("route", "add", "10.211.1.0/24", "via", "10.211.2.1")
    try path.server.ip("route", "add", "default", "via", "10.211.3.1")
    try rulesOfA.install(in: path.a)
    try rulesOfB.install(in: path.b)
    try await body(path)
  }

  /// Runs a's accelerator, which intercepts, and with `isPaired` b's as well.
  func running(
    isPaired: Bool, keepsSource: Bool = true, congestion: EntranceSettings.Congestion = .kernel, log: LogBook = LogBook(),
    _ body: @escaping @Sendable (AcceleratorService, AcceleratorService) async throws -> Void
  )
    async throws
  {
    let key = try Pair.keyFile(Pair.key)
    defer { try? FileManager.default.removeItem(atPath: key) }
    var settingsOfA = AcceleratorSettings(node: "a", keyFile: key)
    settingsOfA.entrances.transparent = InPath.entrance
    settingsOfA.entrances.keepsSource = keepsSource
    settingsOfA.entrances.congestion = congestion
    if isPaired {
      settingsOfA.peers = [.init(node: "b", tunnel: InPath.tunnel)]
      settingsOfA.routes = [.init(prefix: InPath.prefixOfServer, peer: "b")]
    }
    var settingsOfB = AcceleratorSettings(node: "b", keyFile: key, tunnel: InPath.tunnel)
    settingsOfB.entrances.keepsSource = keepsSource
    let near = AcceleratorService(settings: settingsOfA, logger: log.logger("a")) { [a] in try CurrentThread.enter(a) }
    let far = AcceleratorService(settings: settingsOfB, logger: log.logger("b")) { [b] in try CurrentThread.enter(b) }
    try await Pair.running(far) { _ in
      try await Pair.running(near) { _ in
        if isPaired { try await Pair(a: near, b: far, entrance: 0, tunnel: 0).waitForConnections(1) }
        try await body(near, far)
      }
    }
  }

  /// A connection of the client with a server of its own, both as they see it.
  func flow(from source: UInt16? = nil) async throws -> (client: Socket, server: Socket, port: UInt16) {
    let (listener, port) = try await on(server) { try Socket.listen() }
    let near = try await on(client) { try Socket.connect(port, at: InPath.serverHost, from: source) }
    let far = try await onThread { try listener.accept() }
    return (near, far, port)
  }

  func on<T: Sendable>(_ host: Namespace, _ work: @escaping @Sendable () throws -> T) async throws -> T {
    try await onThread {
      try CurrentThread.enter(host)
      return try work()
    }
  }
}
