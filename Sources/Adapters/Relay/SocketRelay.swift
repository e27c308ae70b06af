import Flows
import NIOCore
import NIOPosix

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// One socket of one flow.
package final class SocketRelay: ChannelInboundHandler {
  package typealias InboundIn = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  let flow: FlowID
  /// Nil once the flow has closed: what happens on the socket then concerns nobody.
  private var hub: FlowHub?
  private var context: ChannelHandlerContext?
  /// What one read brought beyond the room there was.
  private var held = ByteBuffer()
  private var inputHasEnded = false
  private var inputEndIsTold = false
  private var outputShouldEnd = false
  private var outputHasEnded = false
  private var isReading = false
  private var isAborted = false
  private var octetsInWriting = 0
  private var hasUnflushed = false
  private var flowHasClosed = false

  private let gate: ReadGate?
  /// Reading begins again then.
  private var gateOpening: Scheduled<Void>?

  init(hub: FlowHub, flow: FlowID, gate: ReadGate?) {
    self.hub = hub
    self.flow = flow
    self.gate = gate
  }

}

// MARK: From the flow to the socket

extension SocketRelay {
  func deliver(_ bytes: ByteBuffer) {
    guard let context, !isAborted, !outputHasEnded else { return }
    let octets = bytes.readableBytes
    octetsInWriting += octets
    hasUnflushed = true
    context.write(wrapOutboundOut(bytes)).assumeIsolated().whenComplete { self.wrote(octets, $0) }
  }

  func flush() {
    guard hasUnflushed else { return }
    hasUnflushed = false
    context?.flush()
  }

  /// The peer sends no more: a FIN, after what is still to be written.
  func deliverEnd() {
    outputShouldEnd = true
    flush()
    endOutputIfDone()
  }

  /// The peer is gone: a RST.
  func abort() {
    guard let context, !isAborted else { return }
    isAborted = true
    held.clear()
    SocketRelay.abort(context.channel)
  }

  /// Closes a channel so that its peer sees a RST (SO_LINGER with zero seconds), as RFC 9293 section 3.10.5 ABORT.
  package static func abort(_ channel: any Channel) {
    setAbortive(true, channel)
    channel.close(promise: nil)
  }

  /// While a socket is abortive the kernel closes it with a RST: that of a process that dies then looks like what it is, and not like the end of the data. Whoever ends
  /// a socket's sending in order takes it back first, or what is still unsent would be thrown away.
  package static func setAbortive(_ isAbortive: Bool, _ channel: any Channel) {
    // On the channel's own loop this takes effect at once. A channel that is closed already has no options, and no peer to tell.
    (channel as? any SocketOptionProvider)?.setSoLinger(linger(l_onoff: isAbortive ? 1 : 0, l_linger: 0)).whenComplete { _ in }
  }

  /// Both directions have ended; the socket closes once its last octets are written.
  func flowClosed() {
    flowHasClosed = true
    flush()
    if octetsInWriting == 0 { finish() }
  }

  /// Leaves the socket to whoever refuses the application in its own protocol.
  func detach() {
    hub = nil
    held.clear()
    if let context {
      SocketRelay.setAbortive(false, context.channel)
      context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
    }
  }

  private func wrote(_ octets: Int, _ result: Result<Void, any Error>) {
    octetsInWriting -= octets
    switch result {
    case .success:
      hub?.relay(self, passedOn: octets)
      endOutputIfDone()
      if flowHasClosed, octetsInWriting == 0 { finish() }
    case .failure: fail()
    }
  }

  private func endOutputIfDone() {
    guard outputShouldEnd, !outputHasEnded, octetsInWriting == 0, !isAborted, let context else { return }
    outputHasEnded = true
    SocketRelay.setAbortive(false, context.channel)
    context.close(mode: .output, promise: nil)
  }

  private func finish() {
    hub = nil
    guard let context, !isAborted else { return }
    SocketRelay.setAbortive(false, context.channel)
    context.close(promise: nil)
  }
}

// MARK: From the socket to the flow

extension SocketRelay {
  /// Sends on what is held, and reads on, as far as there is room.
  func resume() {
    guard let hub, !isAborted else { return }
    // Until there is no room, not once: only for what found none does somebody call again.
    while held.readableBytes > 0 {
      guard gateOpening == nil else { return }
      let room = min(hub.room(for: self), portion)
      guard room > 0, let part = held.readSlice(length: min(room, held.readableBytes)) else { return }
      if held.readableBytes == 0 { held = ByteBuffer() }
      pass(part, to: hub)
    }
    if inputHasEnded { return tellInputEnd() }
    guard let context, !isReading, gateOpening == nil, hub.room(for: self) > 0 else { return }
    isReading = true
    context.read()
  }

  package func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    SocketRelay.setAbortive(true, context.channel)
  }

  package func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

  /// Octets that pass at once: all that there are, or with a gate as many as one flow may have in turn.
  private var portion: Int { gate == nil ? .max : ReadGate.portion }

  private func pass(_ bytes: ByteBuffer, to hub: FlowHub) {
    let opening = gate?.take(bytes.readableBytes, at: .now())
    if let opening {
      // Not cancelled when the socket closes: what is held of one whose both directions have ended still has to go.
      gateOpening = hub.loop.assumeIsolated().scheduleTask(deadline: opening) { [weak self] () -> Void in
        self?.gateOpening = nil
        self?.resume()
      }
    }
    hub.relay(self, read: bytes)
  }

  /// A relay may be joined while its channel is being set up; a read that was asked for then came to nothing.
  package func channelActive(context: ChannelHandlerContext) {
    if isReading { context.read() }
    context.fireChannelActive()
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard let hub, !isAborted else { return }
    var bytes = unwrapInboundIn(data)
    // Once its peer has ended its direction NIO reads what there is, asked or not.
    if held.readableBytes > 0 || gateOpening != nil {
      held.writeBuffer(&bytes)
      return
    }
    let room = min(hub.room(for: self), portion)
    if room > 0, let part = bytes.readSlice(length: min(room, bytes.readableBytes)) { pass(part, to: hub) }
    if bytes.readableBytes > 0 { held = bytes }
  }

  package func channelReadComplete(context: ChannelHandlerContext) {
    isReading = false
    resume()
  }

  package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case ChannelEvent.inputClosed? = event as? ChannelEvent {
      inputHasEnded = true
      isReading = false
      resume()
    } else {
      context.fireUserInboundEventTriggered(event)
    }
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) { fail() }

  package func channelInactive(context: ChannelHandlerContext) {
    isReading = false
    if outputHasEnded, !isAborted {
      // NIO closes a channel whose both directions have ended, without an event for the second end. What is held still goes out.
      inputHasEnded = true
      resume()
    } else if !flowHasClosed {
      hub?.relayFailed(self)
      hub = nil
    }
    context.fireChannelInactive()
  }

  private func tellInputEnd() {
    guard !inputEndIsTold else { return }
    inputEndIsTold = true
    hub?.relayEnded(self)
  }

  private func fail() {
    guard !isAborted else { return }
    let hub = self.hub
    abort()
    hub?.relayFailed(self)
  }
}

extension SocketRelay: RemovableChannelHandler {}
