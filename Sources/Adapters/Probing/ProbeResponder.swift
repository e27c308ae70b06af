import Logging
import NIOCore
import NIOPosix
import Sockets
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Answers probes: a TCP server on one event loop.
package final class ProbeResponder: Sendable {
  /// Where it listens.
  package let endpoint: Endpoint
  private let channel: any Channel
  private let state: NIOLoopBound<ResponderState>

  private init(endpoint: Endpoint, channel: any Channel, state: NIOLoopBound<ResponderState>) {
    self.endpoint = endpoint
    self.channel = channel
    self.state = state
  }

  /// Listens, or throws what the system says. With port 0 the system chooses; `endpoint` has what it chose.
  package static func bind(
    to endpoint: Endpoint, on loop: any EventLoop, logger: Logger, limits: ProbeLimits = ProbeLimits()
  ) async throws -> ProbeResponder {
    let state = try await loop.submit { NIOLoopBound(ResponderState(limits: limits, logger: logger), eventLoop: loop) }.get()
    let address = try SocketAddress(endpoint)
    // On the loop, so that the socket is made by its thread: the lab puts threads into namespaces.
    let channel = try await loop.flatSubmit {
      ServerBootstrap(group: loop)
        .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
        .serverChannelOption(.backlog, value: 256)
        .serverChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { sendInBursts(channel) } }
        .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
        .childChannelInitializer { channel in
          channel.eventLoop.makeCompletedFuture { try state.value.take(channel) }
        }
        .bind(to: address)
    }.get()
    let port = channel.localAddress?.port.map { UInt16($0) } ?? endpoint.port
    return ProbeResponder(endpoint: Endpoint(address: endpoint.address, port: port), channel: channel, state: state)
  }

  /// Stops listening and ends the connections.
  package func close() async {
    try? await channel.close()
    let state = state
    try? await state.eventLoop.submit { state.value.closeAll() }.get()
  }
}

/// A train tells the path's rate only if its segments leave in bursts: BBR, where it is the system's choice, would pace them at what the window comes
/// to in a round trip, and a prober would measure that (2.6 Mbit/s on a path of 100 Mbit/s and 300 ms). So the listening socket, and with it each that
/// it accepts, gets Reno, which every Linux has and lets everyone choose. A socket that has been BBR's once would go on pacing.
private func sendInBursts(_ channel: any Channel) {
  let tcpCongestion: CInt = 13  // TCP_CONGESTION of linux/tcp.h, which not every C library names
  _ = try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) { descriptor in
    let name = Array("reno".utf8)
    // Without it the rates come out too low, and nothing else is wrong.
    _ = setsockopt(descriptor, CInt(IPPROTO_TCP), tcpCongestion, name, socklen_t(name.count))
  }
}

/// What the connections of a responder share, on its event loop.
private final class ResponderState {
  let limits: ProbeLimits
  let logger: Logger
  private var connections: [ObjectIdentifier: any Channel] = [:]
  private var isClosed = false
  /// Trains of the second that began at `second`.
  private var trains = 0
  private var second = NIODeadline.now()

  init(limits: ProbeLimits, logger: Logger) {
    self.limits = limits
    self.logger = logger
  }

  func take(_ channel: any Channel) throws {
    guard !isClosed, connections.count < limits.maximumConnections else {
      logger.warning("probe connection turned away: \(limits.maximumConnections) are open", metadata: ["from": "\(origin(of: channel))"])
      channel.close(promise: nil)
      return
    }
    connections[ObjectIdentifier(channel)] = channel
    try channel.pipeline.syncOperations.addHandler(ProbeAnswerer(state: self))
  }

  func forget(_ channel: any Channel) { connections[ObjectIdentifier(channel)] = nil }

  func closeAll() {
    isClosed = true
    for channel in connections.values { channel.close(promise: nil) }
  }

  func mayTrain() -> Bool {
    let now = NIODeadline.now()
    if now - second >= .seconds(1) {
      second = now
      trains = 0
    }
    guard trains < limits.trainsPerSecond else { return false }
    trains += 1
    return true
  }

  func origin(of channel: any Channel) -> String { channel.remoteAddress?.description ?? "?" }
}

/// One connection of a responder. It answers nothing while its answers are not taken, and so holds one train at most.
private final class ProbeAnswerer: ChannelDuplexHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  /// What trains are made of: no two pieces alike, so that nothing on the path can compress it and make the path look faster than it is.
  private static let train: ByteBuffer = {
    var random = SeededGenerator(seed: 0x4c48_5052)
    var buffer = ByteBuffer()
    while buffer.writerIndex < ProbeLimits.maximumTrain { buffer.writeInteger(random.next() as UInt64) }
    return buffer
  }()

  /// Two segments of 1,448 octets: written one by one they leave one by one, while a whole train would leave in superpackets of up to 64 KiB if the
  /// window is open; those arrive as lumps, 52 ms apart at 10 Mbit/s, which look like windows of TCP and tell no rate.
  private static let pieceOctets = 2_896

  private let state: ResponderState
  private var buffer = ByteBuffer()
  private var wantsRead = false
  private var idle: Scheduled<Void>?

  init(state: ResponderState) { self.state = state }

  func channelActive(context: ChannelHandlerContext) {
    watchIdle(context)
    context.fireChannelActive()
  }

  func channelInactive(context: ChannelHandlerContext) {
    idle?.cancel()
    idle = nil
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) { state.forget(context.channel) }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    buffer.discardReadBytes()
    buffer.writeImmutableBuffer(unwrapInboundIn(data))
    answer(context)
  }

  /// Nothing more is read while answers wait, so a peer that asks and does not read holds one read and one train here, no more.
  func read(context: ChannelHandlerContext) {
    if context.channel.isWritable { context.read() } else { wantsRead = true }
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable {
      answer(context)
      if wantsRead, context.channel.isWritable {
        wantsRead = false
        context.read()
      }
    }
    context.fireChannelWritabilityChanged()
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

  private func answer(_ context: ChannelHandlerContext) {
    do throws(ProbeViolation) {
      while context.channel.isWritable, let request = try ProbeMessage.read(from: &buffer) {
        watchIdle(context)
        switch request.kind {
        case .echo: send(.echoAnswer, size: 0, request.nonce, context)
        case .train:
          let size = state.mayTrain() ? request.size : 0
          send(.trainAnswer, size: size, request.nonce, context)
        case .echoAnswer, .trainAnswer: throw .unknownKind(request.kind.rawValue)
        }
      }
    } catch {
      state.logger.info("probe connection closed: \(error)", metadata: ["from": "\(state.origin(of: context.channel))"])
      context.close(promise: nil)
    }
  }

  private func send(_ kind: ProbeMessage.Kind, size: UInt32, _ nonce: UInt32, _ context: ChannelHandlerContext) {
    var head = context.channel.allocator.buffer(capacity: ProbeMessage.octets)
    ProbeMessage(kind: kind, size: size, nonce: nonce).write(into: &head)
    context.write(wrapOutboundOut(head), promise: nil)
    context.flush()
    var sent = 0
    while sent < Int(size), let octets = ProbeAnswerer.train.getSlice(at: sent, length: min(ProbeAnswerer.pieceOctets, Int(size) - sent)) {
      context.writeAndFlush(wrapOutboundOut(octets), promise: nil)
      sent += octets.readableBytes
    }
  }

  private func watchIdle(_ context: ChannelHandlerContext) {
    idle?.cancel()
    idle = context.eventLoop.assumeIsolated().scheduleTask(in: .nanoseconds(state.limits.idle.nanoseconds)) { context.close(promise: nil) }
  }
}
