import Control
import Logging
import NIOCore
import NIOPosix
import Probing
import Vocabulary
import TestSupport

let loopback = Endpoint("127.0.0.1:0")!

let quiet: Logger = {
  var logger = Logger(label: "test")
  logger.logLevel = .critical
  return logger
}()

extension Endpoint {
  var socketAddress: SocketAddress { get throws { try SocketAddress(ipAddress: "\(address)", port: Int(port)) } }
}

/// A prober on an event loop, and what it reports.
final class Prober: Sendable {
  let reports = Inbox<NodeReport>()
  private let prober: NIOLoopBound<PathProber>

  init(limits: ProbeLimits = Prober.limits, on loop: any EventLoop = MultiThreadedEventLoopGroup.singleton.next()) async throws {
    prober = try await loop.submit { [reports] in
      NIOLoopBound(PathProber(loop: loop, logger: quiet, limits: limits) { reports.put($0) }, eventLoop: loop)
    }.get()
  }

  /// Short pauses, so that tests do not wait.
  static var limits: ProbeLimits {
    var limits = ProbeLimits()
    limits.firstPause = .milliseconds(10.0)
    limits.longestPause = .milliseconds(100.0)
    limits.shortestLoss = .seconds(10.0)
    return limits
  }

  func watch(_ targets: ProbeTarget...) async throws {
    let prober = self.prober
    try await prober.eventLoop.submit { prober.value.watch(targets) }.get()
  }

  func stop() async throws {
    let prober = self.prober
    try await prober.eventLoop.submit { prober.value.stop() }.get()
  }
}

extension ProbeTarget {
  init(_ site: SiteID, _ address: Endpoint, every milliseconds: Int64 = 100) {
    self.init(site: site, address: address, intervalMilliseconds: milliseconds)
  }
}

extension NodeReport {
  var isMeasured: Bool { if case .measured = self { true } else { false } }

  var trouble: String? { if case .unreachable(_, let reason) = self { reason } else { nil } }
}

/// A place to probe that a test can look into.
final class Place: Sendable {
  enum Event: Sendable, Hashable { case accepted, closed, asked(ProbeMessage.Kind) }

  let endpoint: Endpoint
  let events: Inbox<Event>
  private let channel: any Channel

  /// - Parameters:
  ///   - answers: false for one that accepts and says nothing.
  ///   - isSlow: true for one whose trains come at a rate; otherwise it refuses them.
  static func start(answers: Bool = true, isSlow: Bool = false) async throws -> Place {
    let events = Inbox<Event>()
    let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(Handler(events, answers, isSlow))
        }
      }
      .bind(to: loopback.socketAddress).get()
    return Place(Endpoint(address: loopback.address, port: UInt16(channel.localAddress!.port!)), channel, events)
  }

  private init(_ endpoint: Endpoint, _ channel: any Channel, _ events: Inbox<Event>) {
    self.endpoint = endpoint
    self.channel = channel
    self.events = events
  }

  func stop() async throws { try await channel.close() }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer
    private let events: Inbox<Event>
    private let answers: Bool
    private let isSlow: Bool
    private var buffer = ByteBuffer()

    init(_ events: Inbox<Event>, _ answers: Bool, _ isSlow: Bool) {
      self.events = events
      self.isSlow = isSlow
      self.answers = answers
    }

    func channelActive(context: ChannelHandlerContext) { events.put(.accepted) }
    func channelInactive(context: ChannelHandlerContext) { events.put(.closed) }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      buffer.writeImmutableBuffer(unwrapInboundIn(data))
      while let request = try? ProbeMessage.read(from: &buffer) {
        events.put(.asked(request.kind))
        guard answers else { continue }
        var answer = ByteBuffer()
        switch request.kind {
        case .train where isSlow:
          ProbeMessage(kind: .trainAnswer, size: request.size, nonce: request.nonce).write(into: &answer)
          send(Int(request.size), on: context.channel)
        case .train: ProbeMessage(kind: .trainAnswer, nonce: request.nonce).write(into: &answer)
        default: ProbeMessage(kind: .echoAnswer, nonce: request.nonce).write(into: &answer)
        }
        context.writeAndFlush(wrapOutboundOut(answer), promise: nil)
      }
    }

    /// 4 KiB each 200 us: 164 Mbit/s at most, less on a busy machine.
    private func send(_ left: Int, on channel: any Channel) {
      guard left > 0 else { return }
      let piece = min(left, 4_096)
      channel.eventLoop.assumeIsolated().scheduleTask(in: .microseconds(200)) {
        channel.writeAndFlush(ByteBuffer(repeating: 0, count: piece), promise: nil)
        self.send(left - piece, on: channel)
      }
    }
  }
}

/// A client that says what a test tells it, and keeps what it hears.
final class Stranger: Sendable {
  enum Event: Sendable { case bytes(ByteBuffer), closed }

  let events: Inbox<Event>
  private let channel: any Channel

  static func connect(to endpoint: Endpoint, reads: Bool = true) async throws -> Stranger {
    let events = Inbox<Event>()
    let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .channelOption(.autoRead, value: reads)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Handler(events)) }
      }
      .connect(to: endpoint.socketAddress).get()
    return Stranger(channel, events)
  }

  private init(_ channel: any Channel, _ events: Inbox<Event>) {
    self.channel = channel
    self.events = events
  }

  func say(_ bytes: ByteBuffer) async throws { try await channel.writeAndFlush(bytes) }

  func say(_ kind: ProbeMessage.Kind, size: UInt32 = 0, nonce: UInt32) async throws {
    var bytes = ByteBuffer()
    ProbeMessage(kind: kind, size: size, nonce: nonce).write(into: &bytes)
    try await say(bytes)
  }

  func startReading() async throws { try await channel.setOption(.autoRead, value: true).get() }

  func hear(_ count: Int) async throws -> ByteBuffer {
    var heard = ByteBuffer()
    while heard.readableBytes < count {
      guard case .bytes(let bytes) = try await events.next() else { throw ChannelError.eof }
      heard.writeImmutableBuffer(bytes)
    }
    return heard
  }

  func waitForClose() async throws { _ = try await events.next { if case .closed = $0 { true } else { false } } }

  func close() async { try? await channel.close() }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let events: Inbox<Event>
    init(_ events: Inbox<Event>) { self.events = events }
    func channelRead(context: ChannelHandlerContext, data: NIOAny) { events.put(.bytes(unwrapInboundIn(data))) }
    func channelInactive(context: ChannelHandlerContext) { events.put(.closed) }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
  }
}
