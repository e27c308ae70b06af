import Flows
import NIOCore

/// Fired through the pipeline when the far side is connected.
package struct ConnectEstablished: Sendable, Hashable {
  package init() {}
}

/// Why a CONNECT came to nothing.
package enum ConnectRequestError: Error, Hashable, CustomStringConvertible {
  /// The accelerator answered, and not with 2xx.
  case refused(status: Int, reason: String)
  case malformedAnswer
  case noAnswer(afterSeconds: Int64)
  /// The connection ended before an answer came.
  case closed

  /// What the status means for a flow (the inverse of the entrance's answers); nil where trying again, or elsewhere, may help.
  package var refusal: FlowRefusal? {
    switch self {
    case .refused(403, _): return .notAllowed
    case .refused(404, _): return .unknownHost
    case .refused(502, let reason) where reason.hasSuffix("Refused"): return .connectionRefused
    case .refused(502, let reason) where reason.hasSuffix("Unreachable"): return .hostUnreachable
    case .refused(503, _): return .tooManyFlows
    case .refused(504, _): return .timedOut
    case .refused(_, _): return .failed
    case .malformedAnswer, .noAnswer, .closed: return nil
    }
  }

  package var description: String {
    switch self {
    case .refused(let status, let reason): return "the accelerator answered \(status) \(reason)"
    case .malformedAnswer: return "the answer to CONNECT was not HTTP: is this the entrance of an accelerator?"
    case .noAnswer(let seconds): return "no answer to CONNECT within \(seconds) s"
    case .closed: return "the accelerator closed the connection before it answered CONNECT"
    }
  }
}

/// `CONNECT host:port`, the client's half: put it first in the pipeline of a channel that dials an accelerator's entrance.
///
/// It writes the request as soon as the channel is active, before it tells the handlers behind that the channel is active: they may write at
/// once, right behind the request, without waiting for the answer. The answer's head is taken off; then the handler fires `ConnectEstablished`, keeps the promise and leaves;
/// everything behind the head goes on untouched. A refusal fails the promise with `ConnectRequestError`, fires it as an error and closes the channel.
package final class ConnectRequestHandler: ChannelInboundHandler, RemovableChannelHandler {
  package typealias InboundIn = ByteBuffer
  package typealias InboundOut = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  private enum State {
    case idle
    case waiting(ByteBuffer)
    case done
  }

  private var state = State.idle
  private let target: FlowTarget
  private let limit: TimeAmount
  private var answered: EventLoopPromise<Void>?
  private var deadline: Scheduled<Void>?

  package init(target: FlowTarget, limit: TimeAmount = InterceptionLimits.answer, answered: EventLoopPromise<Void>? = nil) {
    self.target = target
    self.limit = limit
    self.answered = answered
  }

  package func handlerAdded(context: ChannelHandlerContext) {
    if context.channel.isActive { request(context) }
  }

  package func handlerRemoved(context: ChannelHandlerContext) {
    deadline?.cancel()
    answer(.failure(ConnectRequestError.closed))
  }

  package func channelActive(context: ChannelHandlerContext) {
    request(context)
    context.fireChannelActive()
  }

  package func channelInactive(context: ChannelHandlerContext) {
    state = .done
    answer(.failure(ConnectRequestError.closed))
    context.fireChannelInactive()
  }

  private func request(_ context: ChannelHandlerContext) {
    guard case .idle = state else { return }
    state = .waiting(ByteBuffer())
    let head = ByteBuffer(string: "CONNECT \(target) HTTP/1.1\r\nHost: \(target)\r\n\r\n")
    context.writeAndFlush(wrapOutboundOut(head), promise: nil)
    let box = NIOLoopBound(context, eventLoop: context.eventLoop)
    deadline = context.eventLoop.assumeIsolated().scheduleTask(in: limit) { [weak self] in
      guard let self, case .waiting = self.state else { return }
      self.fail(.noAnswer(afterSeconds: self.limit.nanoseconds / 1_000_000_000), box.value)
    }
    context.read()
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = unwrapInboundIn(data)
    switch state {
    case .idle, .done: context.fireChannelRead(wrapInboundOut(bytes))
    case .waiting(var buffered):
      buffered.writeBuffer(&bytes)
      switch HTTPHead.take(from: &buffered) {
      case .needMore: state = .waiting(buffered)
      case .tooLong, .malformed: fail(.malformedAnswer, context)
      case .line(let line): receive(line, rest: buffered, context)
      }
    }
  }

  private func receive(_ line: String, rest: ByteBuffer, _ context: ChannelHandlerContext) {
    let parts = line.split(separator: " ", maxSplits: 2)
    guard parts.count >= 2, parts[0].hasPrefix("HTTP/1."), let status = Int(parts[1]), (100...599).contains(status) else {
      fail(.malformedAnswer, context)
      return
    }
    if status < 200 {  // RFC 9110 section 15.2: interim answers may come first
      state = .waiting(ByteBuffer())
      if rest.readableBytes > 0 { channelRead(context: context, data: wrapInboundOut(rest)) }
      return
    }
    guard status < 300 else {
      fail(.refused(status: status, reason: parts.count > 2 ? String(parts[2]) : ""), context)
      return
    }
    state = .done
    deadline?.cancel()
    answer(.success(()))
    context.fireUserInboundEventTriggered(ConnectEstablished())
    if rest.readableBytes > 0 { context.fireChannelRead(wrapInboundOut(rest)) }
    context.pipeline.syncOperations.removeHandler(self, promise: nil)
  }

  package func channelReadComplete(context: ChannelHandlerContext) {
    context.fireChannelReadComplete()
    if case .waiting = state { context.read() }
  }

  package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .waiting = state, case ChannelEvent.inputClosed? = event as? ChannelEvent {
      fail(.closed, context)
      return
    }
    context.fireUserInboundEventTriggered(event)
  }

  private func fail(_ error: ConnectRequestError, _ context: ChannelHandlerContext) {
    state = .done
    deadline?.cancel()
    answer(.failure(error))
    context.fireErrorCaught(error)
    context.close(promise: nil)
  }

  private func answer(_ result: Result<Void, any Error>) {
    answered?.completeWith(result)
    answered = nil
  }
}
