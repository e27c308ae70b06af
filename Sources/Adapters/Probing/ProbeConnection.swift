import Logging
import NIOCore
import NIOPosix
import Sockets
import Vocabulary

/// One target of a prober: its connection, dialled again whenever it is lost, and the exchange on it. On one event loop.
final class ProbeConnection: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  /// One read takes all that is there, because the moment of a read is what is measured: octets that arrived together (a superpacket has up to
  /// 64 KiB), or while this program was not running, count as one arrival. In small reads they would look as if the path had brought them at the speed of memory.
  static let readOctets = 128 << 10

  private enum State {
    case idle
    case dialling
    case exchanging(ProbeExchange)
    case pausing(Scheduled<Void>)
    case stopped
  }

  private let loop: any EventLoop
  private let limits: ProbeLimits
  private let address: Endpoint
  private let onFinding: (Result<(roundTrip: TimeSpan, rate: BitRate?), ProbeFailure>) -> Void
  private var interval: TimeSpan
  private var state = State.idle
  private var context: ChannelHandlerContext?
  private var timer: (at: Instant, task: Scheduled<Void>)?
  private var failures = 0
  private var random = SystemRandomNumberGenerator()

  init(
    address: Endpoint, interval: TimeSpan, loop: any EventLoop, limits: ProbeLimits,
    onFinding: @escaping (Result<(roundTrip: TimeSpan, rate: BitRate?), ProbeFailure>) -> Void
  ) {
    self.address = address
    self.interval = interval
    self.loop = loop
    self.limits = limits
    self.onFinding = onFinding
  }

  static func now() -> Instant { Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)) }

  func start() { if case .idle = state { dial() } }

  /// From the next echo on.
  func setInterval(_ interval: TimeSpan) {
    self.interval = interval
    guard case .exchanging(var exchange) = state else { return }
    exchange.interval = interval
    state = .exchanging(exchange)
  }

  func stop() {
    if case .pausing(let task) = state { task.cancel() }
    state = .stopped
    timer?.task.cancel()
    timer = nil
    context?.close(promise: nil)
  }

  // MARK: Dialling

  private func dial() {
    state = .dialling
    let began = ProbeConnection.now()
    let bound = NIOLoopBound(self, eventLoop: loop)
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(.nanoseconds(limits.connect.nanoseconds))
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: ProbeConnection.readOctets))
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(bound.value) }
      }
    do {
      let target = try SocketAddress(address)
      bootstrap.connect(to: target).assumeIsolated().whenComplete { result in
        switch result {
        case .success(let channel): self.connected(channel, handshake: ProbeConnection.now() - began)
        case .failure(let error): self.failed(describe(error))
        }
      }
    } catch {
      failed(describe(error))
    }
  }

  private func connected(_ channel: any Channel, handshake: TimeSpan) {
    guard case .dialling = state else { return channel.close(promise: nil) }
    state = .exchanging(
      ProbeExchange(
        interval: interval, handshake: handshake, firstNonce: UInt32.random(in: 0...UInt32.max, using: &random), limits: limits,
        at: ProbeConnection.now()))
    guard channel.isActive else { return failed("connection closed by the other side") }
    step { $0.handleDeadline(at: ProbeConnection.now()) }
  }

  /// Says so, and tries again after a pause.
  private func failed(_ reason: String) {
    switch state {
    case .dialling, .exchanging: break
    case .idle, .pausing, .stopped: return
    }
    timer?.task.cancel()
    timer = nil
    let base = min(limits.firstPause * (Int64(1) << Int64(min(failures, 10))), limits.longestPause)
    failures += 1
    let pause = base + .nanoseconds(Int64.random(in: 0...base.nanoseconds / 4, using: &random))
    state = .pausing(loop.assumeIsolated().scheduleTask(in: .nanoseconds(pause.nanoseconds)) { [weak self] in self?.dial() })
    let channel = context
    context = nil
    channel?.close(promise: nil)
    onFinding(.failure(ProbeFailure(description: reason)))
  }

  // MARK: The exchange

  private func step(_ input: (inout ProbeExchange) -> Void) {
    guard case .exchanging(var exchange) = state else { return }
    input(&exchange)
    var effects: [ProbeExchange.Effect] = []
    while let effect = exchange.nextEffect() { effects.append(effect) }
    state = .exchanging(exchange)
    // Not at the handshake: what accepts and then says nothing is no target, and not worth a try every 500 ms.
    if exchange.hasAnswered { failures = 0 }
    watch(exchange.deadline)
    for effect in effects {
      // A finding may make the owner stop us, and a failure ends the exchange: the rest is nothing then.
      guard case .exchanging = state else { return }
      switch effect {
      case .send(let bytes): context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
      case .found(let roundTrip, let rate): onFinding(.success((roundTrip, rate)))
      case .failed(let reason): failed(reason)
      }
    }
  }

  private func watch(_ deadline: Instant?) {
    if let timer, timer.at == deadline { return }
    timer?.task.cancel()
    timer = nil
    guard let deadline else { return }
    let task = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(UInt64(max(deadline.nanoseconds, 0)))) { [weak self] in
      guard let self else { return }
      self.timer = nil
      self.step { $0.handleDeadline(at: ProbeConnection.now()) }
    }
    timer = (deadline, task)
  }

  // MARK: The channel

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  func handlerRemoved(context: ChannelHandlerContext) { if self.context === context { self.context = nil } }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard context === self.context else { return }
    let now = ProbeConnection.now()
    step { $0.receive(unwrapInboundIn(data), at: now) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if context === self.context { failed(describe(error)) } else { context.close(promise: nil) }
  }

  func channelInactive(context: ChannelHandlerContext) {
    if context === self.context, case .exchanging = state { failed("connection closed by the other side") }
    context.fireChannelInactive()
  }
}

/// Why a probe failed, in words.
struct ProbeFailure: Error, CustomStringConvertible {
  var description: String
}
