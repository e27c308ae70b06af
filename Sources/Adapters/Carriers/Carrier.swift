import Logging
import NIOCore
import SCTP
import Sockets

/// One TCP connection that carries SCTP packets, each behind its length in 16 bits (RFC 4571 section 2).
package final class Carrier: ChannelInboundHandler {
  package typealias InboundIn = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  /// What a carrier tells its owner. All calls come on the channel's event loop.
  package struct Events {
    package var packet: (Carrier, ByteBuffer) -> Void
    /// The packets of one read have all been handed over.
    package var readComplete: (Carrier) -> Void
    package var writability: (Carrier, Bool) -> Void
    /// Once, with the reason in words.
    package var closed: (Carrier, String) -> Void

    package init(
      packet: @escaping (Carrier, ByteBuffer) -> Void, readComplete: @escaping (Carrier) -> Void,
      writability: @escaping (Carrier, Bool) -> Void, closed: @escaping (Carrier, String) -> Void
    ) {
      self.packet = packet
      self.readComplete = readComplete
      self.writability = writability
      self.closed = closed
    }
  }

  /// Above the high mark the association packs no DATA. Together with TCP_NOTSENT_LOWAT this is what a handover may have to send twice beyond what is in flight.
  package static let waterMarks = ChannelOptions.Types.WriteBufferWaterMark(low: 64 << 10, high: 128 << 10)
  /// Octets that the kernel may hold unsent (TCP_NOTSENT_LOWAT): enough for 10 ms at 100 Mbit/s.
  package static let notSentLowWater = 128 << 10

  package let id: CarrierID
  package var events: Events
  private var context: ChannelHandlerContext?
  private var partial = ByteBuffer()
  private var isClosed = false
  private var closeReason: String?

  package init(id: CarrierID, events: Events) {
    self.id = id
    self.events = events
  }

  package var channel: (any Channel)? { context?.channel }
  package var isWritable: Bool { context?.channel.isWritable ?? false }

  package func write(_ packet: ByteBuffer) {
    guard let context else { return }
    precondition(packet.readableBytes <= 65_535)
    var length = context.channel.allocator.buffer(capacity: 2)
    length.writeInteger(UInt16(packet.readableBytes))
    context.write(wrapOutboundOut(length), promise: nil)
    context.write(wrapOutboundOut(packet), promise: nil)
  }

  package func flush() { context?.flush() }

  /// Closes without waiting for what is unsent: its packets are the association's, which sends them again elsewhere.
  package func close(_ reason: String) {
    guard !isClosed else { return }
    closeReason = closeReason ?? reason
    context?.close(promise: nil)
  }

  /// Closes after what has been written has gone out, for a last word such as an ABORT.
  package func closeAfterFlush(_ reason: String) {
    guard !isClosed, let context else { return }
    closeReason = closeReason ?? reason
    let isolated = context.writeAndFlush(wrapOutboundOut(ByteBuffer())).assumeIsolated()
    isolated.whenComplete { _ in self.close(reason) }
  }
}

extension Carrier {
  package func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  package func handlerRemoved(context: ChannelHandlerContext) {
    self.context = nil
    tellClosed("removed from its channel")
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = unwrapInboundIn(data)
    if partial.readableBytes > 0 {
      partial.writeBuffer(&bytes)
      bytes = partial
      partial = ByteBuffer()
    }
    while !isClosed, let length = bytes.getInteger(at: bytes.readerIndex, as: UInt16.self), bytes.readableBytes >= 2 + Int(length) {
      bytes.moveReaderIndex(forwardBy: 2)
      guard let packet = bytes.readSlice(length: Int(length)) else { break }
      events.packet(self, packet)
    }
    if bytes.readableBytes > 0 {  // at most one packet, 65,537 octets
      partial = context.channel.allocator.buffer(capacity: 2 + 65_535)
      partial.writeBuffer(&bytes)
    }
  }

  package func channelReadComplete(context: ChannelHandlerContext) {
    guard !isClosed else { return }
    events.readComplete(self)
  }

  package func channelWritabilityChanged(context: ChannelHandlerContext) {
    guard !isClosed else { return }
    events.writability(self, context.channel.isWritable)
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) {
    closeReason = closeReason ?? describe(error)
    context.close(promise: nil)
  }

  package func channelInactive(context: ChannelHandlerContext) {
    tellClosed("closed by the other side")
    context.fireChannelInactive()
  }

  private func tellClosed(_ reason: String) {
    guard !isClosed else { return }
    isClosed = true
    events.closed(self, closeReason ?? reason)
  }
}
