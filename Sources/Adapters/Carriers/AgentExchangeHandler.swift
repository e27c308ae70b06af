import Certificates
import NIOCore
import Sealing
import Sockets

/// The agent's half of the exchange inside TLS (docs/wire/sealing.md). It stands between TLS with its gate and the carrier.
package final class AgentExchangeHandler: ChannelDuplexHandler, RemovableChannelHandler {
  package typealias InboundIn = ByteBuffer
  package typealias InboundOut = ByteBuffer
  package typealias OutboundIn = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  /// What the agent makes of a request. `contribution` and `secret` belong to `opened`.
  package struct Decision {
    package var verdict: ExchangeAnswer.Verdict
    package var contribution: [UInt8]?
    package var secret: SessionSecret?

    package init(_ verdict: ExchangeAnswer.Verdict, contribution: [UInt8]? = nil, secret: SessionSecret? = nil) {
      self.verdict = verdict
      self.contribution = contribution
      self.secret = secret
    }
  }

  private enum State {
    case securing
    case waiting(client: NodeName)
    /// The carrier's answer to the request's packets is being caught.
    case answering
    case done
  }

  private let gate: PeerGate
  private let carrier: Carrier
  private let decide: (ExchangeRequest, _ client: NodeName) -> Decision
  private var state = State.securing
  private var received = ByteBuffer()
  private var caught = ByteBuffer()

  /// - Parameter gate: what stands in front of this handler, with TLS (`NodeIdentity.secure`).
  package init(gate: PeerGate, carrier: Carrier, decide: @escaping (ExchangeRequest, _ client: NodeName) -> Decision) {
    self.gate = gate
    self.carrier = carrier
    self.decide = decide
  }

  package func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard case .answering = state else { return context.write(data, promise: promise) }
    var bytes = unwrapOutboundIn(data)
    if caught.readableBytes + bytes.readableBytes <= Sealing.maximumExchangeFrames { caught.writeBuffer(&bytes) }
    promise?.succeed(())
  }

  package func flush(context: ChannelHandlerContext) {
    if case .answering = state { return }
    context.flush()
  }

  package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case .securing = state, let client = (event as? PeerAdmitted)?.peer else { return context.fireUserInboundEventTriggered(event) }
    state = .waiting(client: client.name)
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard case .waiting(let client) = state else { return context.fireChannelRead(data) }
    var bytes = unwrapInboundIn(data)
    received.writeBuffer(&bytes)
    do throws(SealingViolation) {
      guard let request = try ExchangeRequest.read(from: &received) else { return }
      answer(request, of: client, context)
    } catch {
      context.fireErrorCaught(ExchangeError("\(error)"))
      context.close(promise: nil)
    }
  }

  private func answer(_ request: ExchangeRequest, of client: NodeName, _ context: ChannelHandlerContext) {
    let decision = decide(request, client)
    if decision.secret != nil {
      state = .answering
      context.fireChannelRead(wrapInboundOut(request.frames))
    }
    state = .done
    var answer = context.channel.allocator.buffer(capacity: 128 + caught.readableBytes)
    ExchangeAnswer(decision.verdict, contribution: decision.contribution, frames: caught).write(into: &answer)
    caught.clear()
    let bound = NIOLoopBound((handler: self, context: context), eventLoop: context.eventLoop)
    let written = context.writeAndFlush(wrapOutboundOut(answer)).assumeIsolated()
    guard let secret = decision.secret else {
      return written.whenComplete { _ in bound.value.context.close(promise: nil) }
    }
    // On the next turn of the loop, since TLS is still on the stack; the client needs a round trip before it can say anything more.
    context.eventLoop.execute {
      let (handler, context) = bound.value
      guard context.channel.isActive else { return }
      let pipeline = context.pipeline.syncOperations
      handler.gate.leave(pipeline)
      handler.carrier.seal(with: secret.sealer(carrier: 1, .toClient))
      handler.carrier.expectSealed(by: secret.opener(carrier: 1, .toAgent))
      pipeline.removeHandler(context: context, promise: nil)
    }
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if case .done = state { return context.fireErrorCaught(error) }
    context.fireErrorCaught(ExchangeError(describe(error)))
  }
}
