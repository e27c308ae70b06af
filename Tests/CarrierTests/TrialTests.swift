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
      let say: (SCTPTrialLine) -> Void = { line in if line.isResult { lines.withLock { $0.append(line.text(at: .zero)) } } }
      return NIOLoopBound(
        (SCTPTrial(active, a, loop: loop, say: say), SCTPTrial(passive, z, loop: loop, say: say), a, z), eventLoop: loop)
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

  @Test("moves to another of its addresses as planned, over UDP and TCP, and nothing is lost", arguments: [false, true])
  func moves(overTCP: Bool) async throws {
    var settings = SCTPTrialSettings(role: .client)
    settings.count = 400
    settings.rate = 2_000
    settings.streams = 3
    settings.plan = [(.milliseconds(50 as Int64), .move(from: IPAddress("127.0.0.3"), to: nil))]
    let lines = try await Self.run(settings, overTCP: overTCP, key: "a shared key")
    #expect(lines.count == 2 && lines.allSatisfy { $0.contains("400 messages") && $0.contains("; 1 moves") }, "\(lines)")
  }

  @Test("streams reset in the middle go on from their beginning")
  func resets() async throws {
    var settings = SCTPTrialSettings(role: .client)
    settings.count = 400
    settings.rate = 2_000
    settings.streams = 3
    settings.plan = [(.milliseconds(50 as Int64), .reset([0, 2])), (.milliseconds(80 as Int64), .askToReset([1]))]
    let lines = try await Self.run(settings, overTCP: false)
    #expect(lines.count == 2 && lines.allSatisfy { $0.contains("400 messages") }, "\(lines)")
  }

  @Test("a command is read as it is written, or not at all")
  func commands() {
    let address = IPAddress("10.1.0.2")!
    #expect(SCTPTrialCommand("add 10.1.0.2") == .add(address))
    #expect(SCTPTrialCommand(" delete  2001:db8::1 ") == .delete(IPAddress("2001:db8::1")!))
    #expect(SCTPTrialCommand("move 10.1.0.2") == .move(from: address, to: nil))
    #expect(SCTPTrialCommand("move 10.1.0.2 to 10.1.0.9:7") == .move(from: address, to: Endpoint("10.1.0.9:7")))
    #expect(SCTPTrialCommand("move to 10.1.0.9:7") == .move(from: nil, to: Endpoint("10.1.0.9:7")))
    #expect(SCTPTrialCommand("reset 1,65534") == .reset([1, 65_534]))
    for text in ["", "add", "add here", "move", "move there", "move 10.1.0.2 10.1.0.3", "reset 1,", "reset 70000", "shutdown now", "jump"] {
      #expect(SCTPTrialCommand(text) == nil, "\(text)")
    }
  }

  @Test("a line for programs is one JSON object, whatever words stand in it")
  func json() throws {
    var line = try #require(SCTPTrialLine(Effect.peerReported("a \"quoted\" word\\ and a\nline")))
    line.association = AssociationID(value: 3)
    #expect(
      line.json(at: .milliseconds(1_500 as Int64))
        == #"{"seconds":1.5,"event":"peer-reported","association":3,"reason":"a \"quoted\" word\\ and a\u000aline"}"#)
    let reset = try #require(SCTPTrialLine(Effect.streamsReset(.incoming, [StreamID(1), StreamID(3)])))
    #expect(reset.json(at: .zero) == #"{"seconds":0,"event":"reset","direction":"incoming","streams":[1,3]}"#)
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
