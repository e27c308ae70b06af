import Accelerator
import ChunkStores
import Flows
import Foundation
import Logging
import TestSupport
import Testing
import Vocabulary

/// All suites that run pairs, one test after another: they share two cores, and one of them weighs the memory of the whole process.
@Suite("Accelerators on loopback", .serialized, .timeLimit(.minutes(2)))
enum Loopback {}

/// Two running accelerators in this process, a with an entrance, b beside the targets, and a tunnel between them on loopback.
/// What goes to 127.0.0.1 goes by way of b, 127.0.0.2 and up directly, so that both ways are tested with one pair.
struct Pair: Sendable {
  let a: AcceleratorService
  let b: AcceleratorService
  let entrance: UInt16
  let tunnel: UInt16
  var places = AcceleratorPlaces()

  static let key = "00112233445566778899aabbccddeeff"
  static let quiet: Logger = {
    var logger = Logger(label: "test")
    logger.logLevel = ProcessInfo.processInfo.environment["LONGHAUL_TEST_LOG"].flatMap(Logger.Level.init(rawValue:)) ?? .critical
    return logger
  }()

  struct Options: Sendable {
    var keyOfA = Pair.key
    var peerName: NodeID = "b"
    var loops = 1
    var compresses = true
    var rateLimit: BitRate?
    var keepsWarm = false
    var limits: FlowLimits?
    var entranceLimit: TimeSpan?
    var certificatesOfA: String?
    var certificatesOfB: String?
    var entrances = EntranceSettings()
    var cache = CacheSettings.memory(.mebibytes(64))
    var storeOfA: (any ChunkStore)?
    var storeOfB: (any ChunkStore)?
    /// Whatever else a test wants to be otherwise.
    var changeA: @Sendable (inout AcceleratorSettings) -> Void = { _ in }
    var changeB: @Sendable (inout AcceleratorSettings) -> Void = { _ in }
    var loggerOfA = Pair.quiet
    var loggerOfB = Pair.quiet
    /// Tunnel connections that a has with b.
    var tunnels = AcceleratorSettings.defaultConnectionsPerPeer
    /// How many tunnel connections must stand before the test begins.
    var connections = 1
  }

  static func keyFile(_ line: String) throws -> String {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-test-\(UUID().uuidString).key").path
    try (line + "\n").write(toFile: path, atomically: true, encoding: .utf8)
    return path
  }

  static func with(_ options: Options = Options(), _ body: @escaping @Sendable (Pair) async throws -> Void) async throws {
    let files = (a: try keyFile(options.keyOfA), b: try keyFile(key))
    defer { for path in [files.a, files.b] { try? FileManager.default.removeItem(atPath: path) } }
    let loopback = Endpoint("127.0.0.1:0")!
    var settingsOfB = AcceleratorSettings(
      node: "b", keyFile: options.certificatesOfB == nil ? files.b : nil, certificates: options.certificatesOfB, tunnel: loopback,
      rateLimit: options.rateLimit, loops: options.loops, compresses: options.compresses,
      limits: options.limits)
    settingsOfB.entrances.dialLimit = options.entrances.dialLimit
    settingsOfB.cache = options.cache
    options.changeB(&settingsOfB)
    let b = AcceleratorService(settings: settingsOfB, store: options.storeOfB, logger: options.loggerOfB)
    try await running(b) { placesOfB in
      let tunnel = try #require(placesOfB.tunnel)
      var settings = AcceleratorSettings(
        node: "a", keyFile: options.certificatesOfA == nil ? files.a : nil, certificates: options.certificatesOfA, entrance: loopback,
        peers: [.init(node: options.peerName, tunnel: tunnel)],
        routes: [.init(prefix: IPPrefix("127.0.0.1/32")!, peer: options.peerName)], rateLimit: options.rateLimit, loops: options.loops,
        compresses: options.compresses, limits: options.limits)
      settings.connectionsPerPeer = options.tunnels
      settings.keepsWarm = options.keepsWarm
      if let limit = options.entranceLimit { settings.entranceLimit = limit }
      settings.entrances = options.entrances
      settings.cache = options.cache
      options.changeA(&settings)
      let a = AcceleratorService(settings: settings, store: options.storeOfA, logger: options.loggerOfA)
      try await running(a) { placesOfA in
        let pair = Pair(a: a, b: b, entrance: try #require(placesOfA.entrance).port, tunnel: tunnel.port, places: placesOfA)
        try await pair.waitForConnections(options.connections)
        try await body(pair)
      }
    }
  }

  /// Runs `body` while the service runs, and ends it after.
  static func running(_ service: AcceleratorService, _ body: @escaping @Sendable (AcceleratorPlaces) async throws -> Void) async throws {
    let (ready, isReady) = AsyncThrowingStream.makeStream(of: AcceleratorPlaces.self)
    try await withThrowingTaskGroup(of: Void.self) { group in
      group.addTask {
        do { try await service.run { isReady.yield($0) } } catch { isReady.finish(throwing: error); throw error }
      }
      var places = ready.makeAsyncIterator()
      try await body(try #require(try await places.next()))
      group.cancelAll()
      while let result = await group.nextResult() {
        if case .failure(let error) = result, !(error is CancellationError) { throw error }
      }
    }
  }

  /// The pool dials by itself: looked at until as many connections carry flows, with a limit.
  func waitForConnections(_ count: Int) async throws {
    guard count > 0 else { return }
    let until = ContinuousClock.now + .seconds(10)
    while try await a.establishedConnections(to: "b") < count {
      try #require(ContinuousClock.now < until, "the tunnel did not come up")
      try await Task.sleep(for: .milliseconds(2))
    }
  }

  /// Both ends have forgotten all flows: looked at until it is so, with a limit.
  func waitForNoFlows() async throws {
    let until = ContinuousClock.now + .seconds(10)
    while true {
      let (here, there) = (try await a.flowCount(), try await b.flowCount())
      if here == 0, there == 0 { return }
      try #require(ContinuousClock.now < until, "\(here) flows are left at a, \(there) at b")
      try await Task.sleep(for: .milliseconds(2))
    }
  }

  /// A flow from an application to a service, both ends of it.
  func flow(host: String = "127.0.0.1") async throws -> (client: Socket, server: Socket) {
    let (listener, port) = try Socket.listen()
    let client = try await onThread { try connected(to: port, host: host) }
    let server = try await onThread { try listener.accept() }
    return (client, server)
  }

  /// A connection through the entrance to a port of this machine, behind b unless said otherwise.
  func connect(to port: UInt16, host: String = "127.0.0.1", early: [UInt8] = []) throws -> (socket: Socket, head: String) {
    let socket = try Socket.connect(entrance)
    try socket.write(Array("CONNECT \(host):\(port) HTTP/1.1\r\nHost: \(host):\(port)\r\n\r\n".utf8) + early)
    return (socket, try socket.head())
  }

  func connected(to port: UInt16, host: String = "127.0.0.1") throws -> Socket {
    let (socket, head) = try connect(to: port, host: host)
    guard head.hasPrefix("HTTP/1.1 200 ") else { throw Socket.Failure(call: head, code: 0) }
    return socket
  }
}

/// Octets that differ from their neighbours near and far, so that a lost, doubled or misplaced block shows; they do not compress.
func pattern(_ count: Int, seed: UInt64) -> [UInt8] {
  var random = SeededGenerator(seed: seed)
  var bytes: [UInt8] = []
  bytes.reserveCapacity(count + 8)
  while bytes.count < count { withUnsafeBytes(of: random.next()) { bytes.append(contentsOf: $0) } }
  return Array(bytes.prefix(count))
}

/// Octets that compress well, and whose place can be told.
func text(_ count: Int, seed: UInt64) -> [UInt8] {
  var random = SeededGenerator(seed: seed)
  let words = ["carrier ", "tunnel ", "session ", "handover ", "epoch ", "credit ", "window ", "path "].map { Array($0.utf8) }
  var bytes: [UInt8] = []
  bytes.reserveCapacity(count + 32)
  while bytes.count < count { bytes += words[Int(random.next() % 8)] + Array("\(bytes.count) ".utf8) }
  return Array(bytes.prefix(count))
}
