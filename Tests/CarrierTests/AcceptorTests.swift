import Authentication
import Carriers
import Flows
import Logging
import NIOCore
import NIOPosix
import SCTP
import Testing
import Vocabulary

/// What an agent's front door keeps of those who knock and say nothing, or the wrong thing.
@Suite("The acceptor of sessions", .timeLimit(.minutes(2)))
struct AcceptorTests {
  static let key = EndpointKey(octets: Array(0..<32)).associationKey

  /// An acceptor on a loop of its own, with its port.
  struct Door {
    let loop: any EventLoop
    let acceptor: NIOLoopBound<SessionAcceptor>
    let channel: any Channel
    var port: Int { channel.localAddress!.port! }

    func count() async throws -> (sessions: Int, strangers: Int) {
      try await loop.submit { (acceptor.value.count, acceptor.value.strangerCount) }.get()
    }
  }

  static func open(maximumStrangers: Int = SessionAcceptor.maximumStrangers) async throws -> Door {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let acceptor = try await loop.submit {
      let listener = SessionListener(
        configuration: AssociationConfiguration(endpointKey: key), authenticator: CryptoAuthenticator(), cookieSecret: Array(0..<32),
        random: SystemRandomNumberGenerator())
      return NIOLoopBound(
        SessionAcceptor(
          listener: listener, limits: FlowLimits(), loop: loop, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
          maximumStrangers: maximumStrangers, onSession: { _ in }), eventLoop: loop)
    }.get()
    let channel = try await ServerBootstrap(group: loop).serverChannelOption(.backlog, value: 1_024).childChannelInitializer { channel in
      channel.eventLoop.makeCompletedFuture { try acceptor.value.accept(channel) }
    }.bind(host: "127.0.0.1", port: 0).get()
    return Door(loop: loop, acceptor: acceptor, channel: channel)
  }

  /// Waits until it is so, or twenty seconds.
  static func wait(for door: Door, until holds: ((sessions: Int, strangers: Int)) -> Bool) async throws -> Bool {
    for _ in 0..<2_000 {
      if holds(try await door.count()) { return true }
      try await Task.sleep(for: .milliseconds(10))
    }
    return false
  }

  static func knock(_ door: Door) async throws -> any Channel {
    try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(host: "127.0.0.1", port: door.port).get()
  }

  /// A whole handshake on a connection of its own, with a packet that can be said again; ends when the association is established.
  static func session(_ door: Door) async throws -> (channel: any Channel, cookieEcho: ByteBuffer) {
    let loop = MultiThreadedEventLoopGroup.singleton.next()
    let channel = try await ClientBootstrap(group: loop).connect(host: "127.0.0.1", port: door.port).get()
    let echo = try await loop.flatSubmit { () -> EventLoopFuture<ByteBuffer> in
      let done = loop.makePromise(of: ByteBuffer.self)
      let here = IPAddress("127.0.0.1")!
      var association = SessionAssociation(
        connecting: AssociationConfiguration(endpointKey: key), authenticator: CryptoAuthenticator(), random: SystemRandomNumberGenerator(),
        on: CarrierID(1), local: here, remote: here, at: SessionDriver.now())
      var last = ByteBuffer()
      func drive(_ carrier: Carrier) {
        while let effect = association.nextEffect(at: SessionDriver.now()) {
          switch effect {
          case .transmit(let packet, _):
            last = packet
            carrier.write(packet)
          case .established: done.succeed(last)
          case .failed(let error): done.fail(error)
          default: break
          }
        }
        carrier.flush()
      }
      let carrier = Carrier(
        id: CarrierID(1),
        events: Carrier.Events(
          packet: {
            association.receive($1, on: CarrierID(1), at: SessionDriver.now())
            drive($0)
          }, readComplete: { _ in }, writability: { _, _ in }, closed: { _, _ in }))
      do { try channel.pipeline.syncOperations.addHandler(carrier) } catch { done.fail(error) }
      drive(carrier)
      return done.futureResult
    }.get()
    return (channel, echo)
  }

  @Test("keeps no more strangers than its limit: the oldest gives way, and a client that speaks still gets its session")
  func strangers() async throws {
    let door = try await Self.open(maximumStrangers: 50)
    var silent: [any Channel] = []
    for _ in 0..<300 { silent.append(try await Self.knock(door)) }
    #expect(try await Self.wait(for: door) { $0.strangers == 50 })
    // The first ones have been closed: their ends see it.
    try await silent[0].closeFuture.get()
    let client = try await Self.session(door)
    #expect(try await Self.wait(for: door) { $0.sessions == 1 && $0.strangers <= 50 })
    for channel in silent + [client.channel] { try? await channel.close() }
    try await door.channel.close()
  }

  @Test("makes one session of one cookie, however often it comes and on however many connections")
  func replayedCookie() async throws {
    let door = try await Self.open()
    let client = try await Self.session(door)
    var others: [any Channel] = []
    for _ in 0..<20 {
      let channel = try await Self.knock(door)
      var bytes = ByteBuffer(integer: UInt16(client.cookieEcho.readableBytes))
      bytes.writeImmutableBuffer(client.cookieEcho)
      try await channel.writeAndFlush(bytes)
      others.append(channel)
    }
    for channel in others { try await channel.closeFuture.get() }  // each is turned away
    #expect(try await door.count().sessions == 1)
    try await client.channel.close()
    try await door.channel.close()
  }

  @Test("answers a flood of INITs and keeps nothing of them but the connection that they came on")
  func flood() async throws {
    let door = try await Self.open()
    let here = IPAddress("127.0.0.1")!
    var association = SessionAssociation(
      connecting: AssociationConfiguration(endpointKey: Self.key), authenticator: CryptoAuthenticator(),
      random: SystemRandomNumberGenerator(), on: CarrierID(1), local: here, remote: here, at: SessionDriver.now())
    guard case .transmit(let initiation, _)? = association.nextEffect(at: SessionDriver.now()) else {
      Issue.record("no INIT")
      return
    }
    let channel = try await Self.knock(door)
    var bytes = ByteBuffer()
    for _ in 0..<2_000 {
      bytes.writeInteger(UInt16(initiation.readableBytes))
      bytes.writeImmutableBuffer(initiation)
    }
    try await channel.writeAndFlush(bytes)
    // All have been read once what stands behind them has been: a packet too short to be one, and a session on another connection.
    let client = try await Self.session(door)
    #expect(try await Self.wait(for: door) { $0.sessions == 1 && $0.strangers == 1 })
    try await channel.close()
    #expect(try await Self.wait(for: door) { $0.sessions == 1 && $0.strangers == 0 })
    try await client.channel.close()
    try await door.channel.close()
  }
}
