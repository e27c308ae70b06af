import Carriers
import NIOCore
import NIOPosix
import SCTP
import Testing
import Vocabulary

/// Brings us and usrsctp together on the loopback, through a relay, in either role; and holds at the end that what each side sent is what the other received.
struct Meeting {
  static let ourPort: UInt16 = 7_601
  static let theirPort: UInt16 = 7_600

  static let ourAddress = IPAddress("127.0.0.2")!
  static let theirAddress = IPAddress("127.0.0.1")!

  var faults = Faults.none
  var key: [UInt8]?
  var keyIdentifier: UInt16 = 0
  /// Ours, if it is another one than usrsctp's.
  var ourKey: [UInt8]?
  var ourKeyIdentifier: UInt16?
  /// Further words for the peer's command line.
  var options: [String] = []
  var isUnordered = false
  /// What we offer beyond what every trial offers.
  var offer: @Sendable (inout AssociationConfiguration.Features) -> Void = { _ in }
  /// What our end does otherwise than echo or be echoed.
  var prepare: @Sendable (Trial) -> Void = { _ in }
  /// What is done while the association lives, when we connect.
  var during: @Sendable (NIOLoopBound<Trial>, Peer) async throws -> Void = { _, _ in }
  /// Messages may be given up, so the digests say nothing.
  var mayLose = false
  /// The peer's role when we connect, and when it does.
  var roles = (passive: "echo", active: "client")

  struct Result {
    var report: Trial.Report
    var relay: FaultyRelay.Counters
    /// All that the peer has said.
    var peer: [String]

    /// What usrsctp counted, from its last line.
    var peerMessages: Int { peer.last { $0.hasPrefix("ok ") }?.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? -1 }
  }

  private var configuration: AssociationConfiguration {
    var configuration = Trial.configuration(
      key: ourKey ?? key, keyIdentifier: ourKeyIdentifier ?? keyIdentifier, port: Self.ourPort, peerPort: Self.theirPort)
    offer(&configuration.features)
    // Another key is met with silence: 0.3 + 0.6 s of it are enough.
    if ourKey != nil || ourKeyIdentifier != nil {
      configuration.paths.initialRTO = .milliseconds(300 as Int64)
      configuration.paths.handshakeRetransmissions = 1
    }
    return configuration
  }

  private var keyOptions: [String] {
    guard let key else { return [] }
    return ["--key", key.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(), "--key-id", "\(keyIdentifier)"]
  }

  /// We connect to usrsctp, which sends everything back.
  @discardableResult
  func connect(_ messages: [TrialMessage]) async throws -> Result {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let port = try await Self.freePort(loop)
    let peer = try Peer([roles.passive, "--udp", "\(port)", "--port", "\(Self.theirPort)"] + keyOptions + options)
    defer { peer.stop() }
    try #require(await peer.line("listening") != nil, "\(peer.complaints)")
    let relay = try await FaultyRelay.start(
      from: Self.ourAddress, to: Endpoint(address: Self.theirAddress, port: port), faults, seed: 5, loop: loop)
    let configuration = configuration
    let (isUnordered, prepare) = (isUnordered, prepare)
    let target = relay.endpoint
    let (bound, result) = try await loop.submit {
      let trial = Trial(configuration, isListening: false, loop: loop)
      trial.receivesUnordered = isUnordered
      prepare(trial)
      let bound = NIOLoopBound(trial, eventLoop: loop)
      let ready = trial.endpoint.bind(Endpoint(address: Self.ourAddress, port: 0))
      ready.whenSuccess { _ in bound.value.run(messages, from: Self.ourAddress, to: target) }
      return (bound, ready.flatMap { _ in bound.value.result })
    }.get()
    do {
      try await during(bound, peer)
      try await result.get()
    } catch {
      try await loop.submit { bound.value.endpoint.close() }.get()
      _ = try await relay.stop()
      throw error
    }
    return try await finish(bound, relay, peer, loop)
  }

  /// usrsctp connects to us, and we send everything back.
  @discardableResult
  func accept(sizes: [Int], rounds: Int = 1, streams: Int) async throws -> Result {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let configuration = configuration
    let (isUnordered, prepare) = (isUnordered, prepare)
    let (bound, ready) = try await loop.submit {
      let trial = Trial(configuration, isListening: true, loop: loop)
      trial.receivesUnordered = isUnordered
      prepare(trial)
      return (NIOLoopBound(trial, eventLoop: loop), trial.endpoint.bind(Endpoint(address: Self.ourAddress, port: 0)))
    }.get()
    let relay = try await FaultyRelay.start(
      from: Self.theirAddress, to: try await ready.get(), faults, seed: 6, loop: loop)
    let peer = try Peer(
      [
        roles.active, "--udp", "\(try await Self.freePort(loop))", "--port", "\(Self.theirPort)", "--remote-port", "\(Self.ourPort)",
        "--remote", "\(Self.ourAddress)", "--remote-udp", "\(relay.endpoint.port)", "--streams", "\(streams)", "--count", "\(rounds)",
        "--sizes",
        sizes.map { "\($0)" }.joined(separator: ","),
      ] + keyOptions + options + (isUnordered ? ["--unordered"] : []))
    defer { peer.stop() }
    return try await finish(bound, relay, peer, loop)
  }

  private func finish(
    _ trial: NIOLoopBound<Trial>, _ relay: FaultyRelay.Running, _ peer: Peer, _ loop: any EventLoop
  ) async throws -> Result {
    let line = await peer.line("ok ")
    let status = await peer.status()
    let report = try await loop.submit {
      trial.value.endpoint.close()
      return trial.value.report
    }.get()
    let counters = try await relay.stop()
    #expect(status == 0, "\(peer.complaints)")
    let last = try #require(line, "\(peer.complaints)")
    if !mayLose {
      #expect(report.sent.messages > 0)
      #expect(last.hasPrefix("ok \(report.received.messages) messages, sent \(report.received), received \(report.sent), "))
    }
    return Result(report: report, relay: counters, peer: peer.said)
  }

  /// A UDP port that was free a moment ago: the peer cannot be told to take any.
  static func freePort(_ loop: any EventLoop) async throws -> UInt16 {
    let channel = try await DatagramBootstrap(group: loop).bind(host: "127.0.0.1", port: 0).get()
    let port = channel.localAddress?.port ?? 0
    try await channel.close().get()
    return UInt16(port)
  }
}
