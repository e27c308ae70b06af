import NIOCore
import Relay

/// Split TCP without a tunnel: two sockets of one event loop back to back, for a target that no peer covers.
///
/// Each side is read only while the other takes octets, so what waits between them is one read; a FIN passes as a FIN, a RST as a RST.
final class SplitRelay: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private var context: ChannelHandlerContext?
  /// The other socket's handler; nil once this one's channel has closed.
  private var partner: SplitRelay?
  private var isReading = false
  private var inputHasEnded = false
  private var outputShouldEnd = false
  private var outputHasEnded = false
  private var hasFailed = false
  private(set) var octetsRead = 0

  /// Joins two channels that read only on demand and allow remote half-closure, and begins to read.
  static func join(_ near: any Channel, _ far: any Channel) throws -> (near: SplitRelay, far: SplitRelay) {
    let (a, b) = (SplitRelay(), SplitRelay())
    a.partner = b
    b.partner = a
    do {
      try near.pipeline.syncOperations.addHandler(a)
      try far.pipeline.syncOperations.addHandler(b)
    } catch {
      a.partner = nil
      b.partner = nil
      throw error
    }
    SocketRelay.setAbortive(true, near)
    SocketRelay.setAbortive(true, far)
    a.readIfRoom()
    b.readIfRoom()
    return (a, b)
  }

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

  private func readIfRoom() {
    guard !isReading, !inputHasEnded, let context, let other = partner?.context, other.channel.isWritable else { return }
    isReading = true
    context.read()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard let other = partner?.context else { return }
    octetsRead += unwrapInboundIn(data).readableBytes
    other.write(data, promise: nil)
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    isReading = false
    partner?.context?.flush()
    readIfRoom()
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable { partner?.readIfRoom() }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case ChannelEvent.inputClosed? = event as? ChannelEvent else {
      context.fireUserInboundEventTriggered(event)
      return
    }
    inputHasEnded = true
    partner?.endOutput()
  }

  /// A FIN, behind everything that is still to be written.
  private func endOutput() {
    guard let context, !outputShouldEnd else { return }
    outputShouldEnd = true
    context.writeAndFlush(wrapOutboundOut(ByteBuffer())).assumeIsolated().whenSuccess { _ in
      guard let context = self.context else { return }
      self.outputHasEnded = true
      SocketRelay.setAbortive(false, context.channel)
      if self.inputHasEnded { context.close(promise: nil) } else { context.close(mode: .output, promise: nil) }
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    hasFailed = true
    SocketRelay.abort(context.channel)
  }

  func channelInactive(context: ChannelHandlerContext) {
    let other = partner
    partner = nil
    other?.partner = nil
    // NIO closes a channel whose both directions have ended, without an event for the second end: no error and an ended output mean a FIN. Its
    // last octets may still be on their way out over there. Anything else was a RST.
    if outputHasEnded, !hasFailed { other?.endOutput() } else if let far = other?.context { SocketRelay.abort(far.channel) }
    context.fireChannelInactive()
  }
}
