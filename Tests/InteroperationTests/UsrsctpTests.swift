import Carriers
import NIOCore
import NIOPosix
import SCTP
import Sockets
import Testing
import Vocabulary

@Suite("usrsctp over UDP", .serialized, .enabled(if: Usrsctp.isInstalled, "libusrsctp-dev is not installed: scripts/setup brings it"))
struct UsrsctpTests {
  static let ourPort: UInt16 = 7_601
  static let theirPort: UInt16 = 7_600
  static let sizes = [1, 2, 3, 4, 5, 100, 1_000, 1_407, 1_408, 1_423, 1_424, 1_425, 1_500, 2_848, 10_000, 65_535, 65_536, 100_000, 200_000]

  /// A UDP port that was free a moment ago: the peer cannot be told to take any.
  static func freePort(_ loop: any EventLoop) async throws -> UInt16 {
    let channel = try await DatagramBootstrap(group: loop).bind(host: "127.0.0.1", port: 0).get()
    let port = channel.localAddress?.port ?? 0
    try await channel.close().get()
    return UInt16(port)
  }

  static func hexadecimal(_ key: [UInt8]) -> String { key.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined() }

  /// We connect to usrsctp, which sends everything back.
  static func connect(_ messages: [TrialMessage], loss: Double = 0, key: [UInt8]? = nil, ourKey: [UInt8]? = nil, options: [String] = [])
    async throws
    -> AssociationStatistics
  {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let port = try await freePort(loop)
    let keyOptions = key.map { ["--key", hexadecimal($0)] } ?? []
    let peer = try Peer(["echo", "--udp", "\(port)", "--port", "\(theirPort)"] + keyOptions + options)
    defer { peer.stop() }
    try #require(await peer.waitFor("listening"), "\(peer.complaints)")
    let relay = try await LossyRelay.start(to: Endpoint(address: loopback, port: port), loss: loss, seed: 5, loop: loop)
    var configuration = Trial.configuration(key: ourKey ?? key, port: ourPort, peerPort: theirPort)
    // A wrong key is met with silence: 0.5 + 1 + 2 s of it are enough.
    if ourKey != nil { configuration.paths.handshakeRetransmissions = 2 }
    let (bound, result) = try await loop.submit { [configuration] in
      let trial = Trial(configuration, isListening: false, loop: loop)
      let bound = NIOLoopBound(trial, eventLoop: loop)
      let ready = trial.endpoint.bind(Endpoint(address: loopback, port: 0))
      ready.whenSuccess { _ in bound.value.run(messages, to: Endpoint(address: loopback, port: relay.port)) }
      return (bound, ready.flatMap { _ in bound.value.result })
    }.get()
    do { try await result.get() } catch {
      try await finish(bound, relay.channel, loop)
      throw error
    }
    let statistics = try await loop.submit { bound.value.statistics }.get()
    #expect(await peer.waitFor("ok \(messages.count) messages"), "\(peer.complaints)")
    #expect(await peer.status() == 0)
    try await finish(bound, relay.channel, loop)
    return statistics
  }

  /// usrsctp connects to us, and we send everything back.
  static func accept(
    sizes: [Int], streams: Int, loss: Double = 0, key: [UInt8]? = nil, ourKey: [UInt8]? = nil, options: [String] = []
  ) async throws {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let (bound, ready) = try await loop.submit {
      let trial = Trial(Trial.configuration(key: ourKey ?? key, port: ourPort, peerPort: theirPort), isListening: true, loop: loop)
      return (NIOLoopBound(trial, eventLoop: loop), trial.endpoint.bind(Endpoint(address: loopback, port: 0)))
    }.get()
    let ours = try await ready.get()
    let relay = try await LossyRelay.start(to: ours, loss: loss, seed: 6, loop: loop)
    let keyOptions = key.map { ["--key", hexadecimal($0)] } ?? []
    let peer = try Peer(
      [
        "client", "--udp", "\(try await freePort(loop))", "--port", "\(theirPort)", "--remote-port", "\(ourPort)", "--remote-udp",
        "\(relay.port)", "--streams", "\(streams)", "--sizes", sizes.map { "\($0)" }.joined(separator: ","),
      ] + keyOptions + options)
    defer { peer.stop() }
    #expect(await peer.waitFor("ok \(sizes.count) messages"), "\(peer.complaints)")
    #expect(await peer.status() == 0, "\(peer.complaints)")
    try await finish(bound, relay.channel, loop)
  }

  static func finish(_ trial: NIOLoopBound<Trial>, _ relay: any Channel, _ loop: any EventLoop) async throws {
    try await loop.submit { trial.value.endpoint.close() }.get()
    try await relay.close().get()
  }

  static func messages(_ sizes: [Int], streams: Int, isUnordered: Bool = false) -> [TrialMessage] {
    sizes.enumerated().map {
      TrialMessage(stream: UInt16($0.offset % streams), size: $0.element, fill: UInt8($0.offset & 255), isUnordered: isUnordered)
    }
  }

  @Test("takes messages of 1 to 200,000 octets from us and sends them back", arguments: [false, true])
  func sizesOut(isUnordered: Bool) async throws {
    _ = try await Self.connect(Self.messages(Self.sizes, streams: 3, isUnordered: isUnordered))
  }

  @Test("connects to us, and gets messages of 1 to 200,000 octets back", arguments: [false, true])
  func sizesIn(isUnordered: Bool) async throws {
    try await Self.accept(sizes: Self.sizes, streams: 3, options: isUnordered ? ["--unordered"] : [])
  }

  @Test("speaks on the first, the last and a thousand other streams of 65,535")
  func streams() async throws {
    let numbers = stride(from: 0, to: 65_535, by: 64).map { UInt16($0) } + [65_534]
    _ = try await Self.connect(numbers.map { TrialMessage(stream: $0, size: 100, fill: UInt8($0 & 255)) })
    try await Self.accept(sizes: Array(repeating: 10, count: 2_000), streams: 2_000)
  }

  @Test("loses one packet in twenty each way, and all arrives: we connect")
  func lossOut() async throws {
    let statistics = try await Self.connect(Self.messages(Self.sizes + Self.sizes, streams: 5), loss: 0.05)
    #expect(statistics.chunksRetransmitted > 0)
  }

  @Test("loses one packet in twenty each way, and all arrives: usrsctp connects")
  func lossIn() async throws { try await Self.accept(sizes: Self.sizes, streams: 5, loss: 0.05, options: ["--count", "1"]) }

  static let key: [UInt8] = Array("interoperable endpoint pair key!".utf8)

  @Test("authenticates with a shared key (HMAC-SHA-1, which is all it has), and wants our DATA authenticated too")
  func authentication() async throws {
    _ = try await Self.connect(Self.messages([1, 1_000, 10_000], streams: 2), key: Self.key)
    _ = try await Self.connect(Self.messages([1, 1_000, 10_000], streams: 2), key: Self.key, options: ["--auth-data"])
    try await Self.accept(sizes: [1, 1_000, 10_000], streams: 2, key: Self.key)
    try await Self.accept(sizes: [1, 1_000, 10_000], streams: 2, key: Self.key, options: ["--auth-data"])
  }

  @Test("with another key gets no association")
  func wrongKey() async throws {
    await #expect(throws: TrialError.self) {
      _ = try await Self.connect(Self.messages([1], streams: 1), key: Self.key, ourKey: Array("another key".utf8))
    }
  }
}
