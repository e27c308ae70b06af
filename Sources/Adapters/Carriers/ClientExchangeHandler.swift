import Certificates
import NIOCore
import Sealing
import Sockets

/// The client's half of the exchange inside TLS (docs/wire/sealing.md). It stands between TLS with its gate and the carrier, holds the carrier's first packets
/// back until the agent is known, sends them with the request, and leaves together with TLS when the answer has come.
package final class ClientExchangeHandler: ChannelDuplexHandler, RemovableChannelHandler {
  package typealias InboundIn = ByteBuffer
  package typealias InboundOut = ByteBuffer
  package typealias OutboundIn = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  package enum Outcome {
    /// The secret of a new session. It is told before the answer's first packet reaches the carrier.
    case opened(SessionSecret)
    /// What the agent says of the session that it was asked for.
    case known(Bool)
    /// The exchange came to nothing, in words.
    case failed(String)
  }

  private enum State {
    /// TLS is not through.
    case securing
    case waiting(agent: NodeName)
    case done
  }

  private let name: NodeName
  private let gate: PeerGate
  private let purpose: ExchangeRequest.Purpose
  private let session: SealedSessionID
  private let contribution = SessionSecret.randomOctets(SessionSecret.contributionOctets)
  private weak var carrier: Carrier?
  private let onOutcome: (Outcome) -> Void
  private var state = State.securing
  private var held = ByteBuffer()
  private var received = ByteBuffer()
  private var hasFailed = false

  /// - Parameters:
  ///   - name: who we are, as our certificate says.
  ///   - gate: what stands in front of this handler, with TLS (`NodeIdentity.secure`).
  ///   - carrier: the carrier behind this handler, to be sealed; nil when only asked.
  package init(
    name: NodeName, gate: PeerGate, purpose: ExchangeRequest.Purpose, session: SealedSessionID, carrier: Carrier?,
    onOutcome: @escaping (Outcome) -> Void
  ) {
    self.name = name
    self.gate = gate
    self.purpose = purpose
    self.session = session
    self.carrier = carrier
    self.onOutcome = onOutcome
  }

  package func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    guard case .done = state else {
      var bytes = unwrapOutboundIn(data)
      // The association says INIT again and again while TLS is slow; once is enough.
      if held.readableBytes + bytes.readableBytes <= Sealing.maximumExchangeFrames { held.writeBuffer(&bytes) }
      promise?.succeed(())
      return
    }
    context.write(data, promise: promise)
  }

  package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case .securing = state, let agent = (event as? PeerAdmitted)?.peer else { return context.fireUserInboundEventTriggered(event) }
    state = .waiting(agent: agent.name)
    var request = context.channel.allocator.buffer(capacity: 128 + held.readableBytes)
    ExchangeRequest(purpose, session: session, contribution: purpose == .open ? contribution : nil, frames: held).write(into: &request)
    held.clear()
    context.writeAndFlush(wrapOutboundOut(request), promise: nil)
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard case .waiting(let agent) = state else { return context.fireChannelRead(data) }
    var bytes = unwrapInboundIn(data)
    received.writeBuffer(&bytes)
    do {
      guard let answer = try ExchangeAnswer.read(from: &received) else { return }
      try take(answer, from: agent, context)
    } catch {
      fail("\(error)", context)
    }
  }

  private func take(_ answer: ExchangeAnswer, from agent: NodeName, _ context: ChannelHandlerContext) throws(ExchangeError) {
    switch (purpose, answer.verdict) {
    case (.ask, .known), (.ask, .unknown):
      state = .done
      onOutcome(.known(answer.verdict == .known))
      context.close(promise: nil)
    case (.open, .opened):
      let secret = SessionSecret(
        client: contribution, agent: answer.contribution, session: session, clientName: name.description,
        agentName: agent.description)
      leave(with: secret, answer.frames, context)
    case (_, .refused): throw ExchangeError("the agent takes no further session")
    case (.ask, .opened), (.open, .known), (.open, .unknown): throw ExchangeError("the agent's answer does not fit the request")
    }
  }

  /// TLS has handed over all that it has: the agent says nothing more before it is spoken to. It is taken out on the next turn of the loop, since it is still on the stack here.
  private func leave(with secret: SessionSecret, _ frames: ByteBuffer, _ context: ChannelHandlerContext) {
    let bound = NIOLoopBound((handler: self, context: context), eventLoop: context.eventLoop)
    context.eventLoop.execute {
      let (handler, context) = bound.value
      guard context.channel.isActive else { return }
      handler.state = .done
      let pipeline = context.pipeline.syncOperations
      handler.gate.leave(pipeline)
      handler.onOutcome(.opened(secret))
      handler.carrier?.seal(with: secret.sealer(carrier: 1, .toAgent))
      context.fireChannelRead(handler.wrapInboundOut(frames))
      handler.carrier?.expectSealed(by: secret.opener(carrier: 1, .toClient))
      context.fireChannelReadComplete()
      pipeline.removeHandler(context: context, promise: nil)
    }
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if case .done = state { return context.fireErrorCaught(error) }
    fail(describe(error), context)
  }

  private func fail(_ reason: String, _ context: ChannelHandlerContext) {
    guard !hasFailed else { return }
    hasFailed = true
    onOutcome(.failed(reason))
    context.fireErrorCaught(ExchangeError(reason))
    context.close(promise: nil)
  }
}
