import Flows
import Logging
import NIOCore
import Relay

/// A client that has said where it wants to go, and waits. Everything here belongs to its channel's event loop.
package protocol WaitingClient: AnyObject {
  var channel: any Channel { get }
  /// Lets the client's octets through to the handlers behind the handshake, those that came early first. Call it once a relay is in the pipeline.
  func startRelaying()
  /// The far side is connected: answers the client and leaves the pipeline (starts relaying, if that was not done yet).
  func accept()
  /// The far side will not be connected: answers the client with the reason and closes. The relay behind hears `channelInactive`.
  func refuse(_ why: FlowRefusal)
}

package typealias HTTPConnectHandler = ProxyHandshakeHandler<HTTPConnectHandshake>
package typealias SOCKS5Handler = ProxyHandshakeHandler<SOCKS5Handshake>
package typealias KnownTargetHandler = ProxyHandshakeHandler<KnownTarget>

/// Runs one proxy handshake at the front of an accepted channel. See this folder's README.
///
/// It switches the channel's automatic reading off for good: a relay that follows reads when it has room.
package final class ProxyHandshakeHandler<Handshake: ProxyHandshake>: ChannelInboundHandler, RemovableChannelHandler, WaitingClient {
  package typealias InboundIn = ByteBuffer
  package typealias InboundOut = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  private enum State {
    case reading(ByteBuffer)
    /// The target is known; octets and the end of stream are kept for the relay.
    case holding(FlowTarget, held: ByteBuffer, ended: Bool)
    /// A relay is behind; the answer is not written yet.
    case relaying(FlowTarget)
    /// An error was answered; what still comes is swallowed.
    case refused
    case gone
  }

  private var state = State.reading(ByteBuffer())
  private var handshake: Handshake
  private var context: ChannelHandlerContext?
  /// Kept when the client goes, so that whoever still works for it finds a closed channel and not none.
  private var ownChannel: (any Channel)?
  private var deadline: Scheduled<Void>?
  private let limit: TimeAmount
  private let logger: Logger
  private let connect: (FlowTarget, any WaitingClient) -> Void

  /// `connect` is called once, on the channel's event loop, and must sooner or later call `accept` or `refuse`.
  package init(
    _ handshake: Handshake, limit: TimeAmount = InterceptionLimits.handshake, logger: Logger,
    connect: @escaping (FlowTarget, any WaitingClient) -> Void
  ) {
    self.handshake = handshake
    self.limit = limit
    self.logger = logger
    self.connect = connect
  }

  package var channel: any Channel {
    guard let ownChannel else { preconditionFailure("the handshake handler was never in a pipeline") }
    return ownChannel
  }

  // MARK: - what the caller decides

  package func startRelaying() {
    guard case .holding(let target, let held, let ended) = state, let context else { return }
    state = .relaying(target)
    if held.readableBytes > 0 {
      context.fireChannelRead(wrapInboundOut(held))
      context.fireChannelReadComplete()
    }
    if ended { context.fireUserInboundEventTriggered(ChannelEvent.inputClosed) }
  }

  package func accept() {
    startRelaying()
    guard case .relaying = state, let context else { return }
    state = .gone
    let answer = handshake.acceptance()
    if answer.readableBytes > 0 { context.writeAndFlush(wrapOutboundOut(answer), promise: nil) }
    context.pipeline.syncOperations.removeHandler(self, promise: nil)
  }

  package func refuse(_ why: FlowRefusal) {
    switch state {
    case .holding(let target, _, _), .relaying(let target):
      logger.debug("flow refused", metadata: ["target": "\(target)", "reason": "\(why)"])
      if let answer = handshake.refusal(why, of: target) { finish(with: answer) } else { abort() }
    case .reading, .refused, .gone: return
    }
  }

  /// Writes the last answer, closes the sending side, and swallows the rest for a moment: closing with unread octets would send a RST, which
  /// may overtake the answer.
  private func finish(with answer: ByteBuffer) {
    guard let context else { return }
    state = .refused
    deadline?.cancel()
    if answer.readableBytes > 0 { context.write(wrapOutboundOut(answer), promise: nil) }
    context.flush()
    context.close(mode: .output, promise: nil)
    let channel = context.channel
    deadline = context.eventLoop.assumeIsolated().scheduleTask(in: InterceptionLimits.linger) { channel.close(mode: .all, promise: nil) }
    context.read()
  }

  private func abort() {
    guard let context else { return }
    state = .refused
    deadline?.cancel()
    SocketRelay.abort(context.channel)
  }

  // MARK: - what the channel says

  package func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    ownChannel = context.channel
    try? context.channel.syncOptions?.setOption(.autoRead, value: false)
    deadline = context.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self] in
      guard let self, case .reading = self.state else { return }
      self.logger.debug("proxy handshake too slow", metadata: ["limit": "\(self.limit)"])
      self.finish(with: self.handshake.tooSlow())
    }
    if context.channel.isActive { begin(context) }
  }

  private func begin(_ context: ChannelHandlerContext) {
    guard case .reading(let buffered) = state else { return }
    advance(buffered, context)
    if case .reading = state { context.read() }
  }

  package func handlerRemoved(context: ChannelHandlerContext) {
    deadline?.cancel()
    self.context = nil
  }

  package func channelActive(context: ChannelHandlerContext) {
    context.fireChannelActive()
    begin(context)
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = unwrapInboundIn(data)
    switch state {
    case .reading(var buffered):
      buffered.writeBuffer(&bytes)
      advance(buffered, context)
    case .holding(let target, var held, let ended):
      state = .refused  // lets go of the buffer, so that it grows in place
      held.writeBuffer(&bytes)
      state = .holding(target, held: held, ended: ended)
      if held.readableBytes > InterceptionLimits.heldOctets { refuse(.failed) }
    case .relaying, .gone: context.fireChannelRead(wrapInboundOut(bytes))
    case .refused: break
    }
  }

  private func advance(_ buffered: ByteBuffer, _ context: ChannelHandlerContext) {
    var buffered = buffered
    while true {
      switch handshake.receive(&buffered) {
      case .needMore:
        state = .reading(buffered)
        return
      case .reply(let reply): context.writeAndFlush(wrapOutboundOut(reply), promise: nil)
      case .target(let target):
        deadline?.cancel()
        state = .holding(target, held: buffered, ended: false)
        connect(target, self)
        return
      case .invalid(let answer, let reason):
        logger.debug("proxy handshake refused", metadata: ["reason": "\(reason)"])
        finish(with: answer)
        return
      }
    }
  }

  package func channelReadComplete(context: ChannelHandlerContext) {
    switch state {
    case .reading, .refused: context.read()
    case .holding: break
    case .relaying, .gone: context.fireChannelReadComplete()
    }
  }

  package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case ChannelEvent.inputClosed? = event as? ChannelEvent else {
      context.fireUserInboundEventTriggered(event)
      return
    }
    switch state {
    case .reading, .refused: context.close(promise: nil)
    case .holding(let target, let held, _): state = .holding(target, held: held, ended: true)
    case .relaying, .gone: context.fireUserInboundEventTriggered(event)
    }
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) {
    switch state {
    case .reading, .refused: context.close(promise: nil)
    case .holding, .relaying, .gone: context.fireErrorCaught(error)
    }
  }
}
