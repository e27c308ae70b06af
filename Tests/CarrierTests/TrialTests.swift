import Carriers
import NIOCore
import NIOPosix
import SCTP
import Synchronization
import Testing
import Vocabulary

@Suite("A trial of SCTP")
struct TrialTests {
  static let loopback = IPAddress("127.0.0.1")!

  static func configuration(key: String?) -> AssociationConfiguration {
    var configuration = AssociationConfiguration(endpointKey: Array((key ?? "").utf8))
    configuration.features.isRequired = false
    configuration.features.authentication = key != nil
    return configuration
  }

  /// Both roles in this process; the results of the active and the passive one.
  static func run(_ active: SCTPTrialSettings, overTCP: Bool, key: String? = nil, passiveKey: String? = nil) async throws -> [String] {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let lines = Mutex<[String]>([])
    var settings = SCTPTrialSettings(role: active.role == .client ? .echo : .sink)
    settings.isOnce = true
    let passive = settings
    let bound = try await loop.submit {
      let (here, there) = (configuration(key: key), configuration(key: passiveKey ?? key))
      let (a, z): (any MessageTransport, any MessageTransport) =
        overTCP
        ? (StreamEndpoint(configuration: here, loop: loop), StreamEndpoint(configuration: there, loop: loop))
        : (
          SCTPEndpoint(configuration: here, mtu: 1_452, isListening: false, loop: loop),
          SCTPEndpoint(configuration: there, mtu: 1_452, isListening: true, loop: loop)
        )
      let say: (String) -> Void = { line in lines.withLock { $0.append(line) } }
      return NIOLoopBound(
        (SCTPTrial(active, a, loop: loop, say: say, tell: { _ in }), SCTPTrial(passive, z, loop: loop, say: say, tell: { _ in }), a, z),
        eventLoop: loop)
    }.get()
    let place = try await loop.submit { () -> EventLoopFuture<Endpoint> in
      let z = bound.value.3
      let any = Endpoint(address: loopback, port: 0)
      return (z as? StreamEndpoint)?.listen(any) ?? (z as? SCTPEndpoint)?.bind(any) ?? loop.makeFailedFuture(ChannelError.ioOnClosedChannel)
    }.get().get()
    try await loop.submit { () -> EventLoopFuture<Void> in
      if let a = bound.value.2 as? StreamEndpoint { return a.connect(to: place).map { bound.value.0.begin($0) } }
      guard let a = bound.value.2 as? SCTPEndpoint else { return loop.makeFailedFuture(ChannelError.ioOnClosedChannel) }
      return a.bind(Endpoint(address: loopback, port: 0)).map { _ in
        guard let a = bound.value.2 as? SCTPEndpoint else { return }
        bound.value.0.begin(a.connect(from: loopback, to: place))
      }
    }.get().get()
    let limit = loop.scheduleTask(in: .seconds(60)) {  // a test that waits must fail, not hang
      bound.value.2.close()
      bound.value.0.stop()
      bound.value.1.stop()
    }
    let results = try await loop.submit { (bound.value.0.result, bound.value.1.result) }.get()
    defer {
      limit.cancel()
      loop.execute {
        bound.value.2.close()
        bound.value.3.close()
      }
    }
    try await results.0.get()
    try await results.1.get()
    return lines.withLock { $0 }
  }

  @Test("sends messages to an echo and gets each back, over UDP and TCP", arguments: [false, true], [nil, "a shared key"])
  func echo(overTCP: Bool, key: String?) async throws {
    var settings = SCTPTrialSettings(role: .client)
    settings.size = 20_000
    settings.count = 200
    settings.streams = 7
    let lines = try await Self.run(settings, overTCP: overTCP, key: key)
    #expect(lines.count == 2 && lines.allSatisfy { $0.contains("200 messages, 4000000 octets") }, "\(lines)")
  }

  @Test("fills a sink, over UDP and TCP", arguments: [false, true])
  func sink(overTCP: Bool) async throws {
    var settings = SCTPTrialSettings(role: .source)
    settings.size = 64
    settings.count = 20_000
    let lines = try await Self.run(settings, overTCP: overTCP)
    #expect(lines.count == 2 && lines.allSatisfy { $0.contains("20000 messages, 1280000 octets") }, "\(lines)")
  }

  @Test("with another key fails, and says why", arguments: [false, true])
  func wrongKey(overTCP: Bool) async throws {
    await #expect {
      _ = try await Self.run(SCTPTrialSettings(role: .client), overTCP: overTCP, key: "one key", passiveKey: "another")
    } throws: {
      "\($0)".contains("endpoint keys differ")
    }
  }
}
