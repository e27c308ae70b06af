import NIOCore
import Sealing

/// The first handler of a connection that an agent with certificates has accepted: it waits until the first octets say what it is, and makes way.
package final class CarrierOpeningHandler: ChannelInboundHandler, RemovableChannelHandler {
  package typealias InboundIn = ByteBuffer
  package typealias InboundOut = ByteBuffer

  private let onOpening: (CarrierOpening, any Channel) -> Void
  private var received = ByteBuffer()
  private var isOver = false

  /// - Parameter onOpening: puts the handlers behind this one that take over; what has come, less a preface, goes on to them.
  package init(onOpening: @escaping (CarrierOpening, any Channel) -> Void) { self.onOpening = onOpening }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard !isOver else { return context.fireChannelRead(data) }
    var bytes = unwrapInboundIn(data)
    received.writeBuffer(&bytes)  // at most one read, since a preface is shorter than any
    guard let opening = CarrierOpening.read(from: &received) else { return }
    isOver = true
    onOpening(opening, context.channel)
    if received.readableBytes > 0 { context.fireChannelRead(wrapInboundOut(received)) }
    received = ByteBuffer()
    context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
  }
}
