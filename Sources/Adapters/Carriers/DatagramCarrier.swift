import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

/// One UDP socket, bound to one address, that carries SCTP packets (RFC 6951): a datagram is a packet.
///
/// Its address is the source of all that leaves here, so a path's source is pinned by the choice of the socket.
package final class DatagramCarrier: ChannelInboundHandler {
  package typealias InboundIn = AddressedEnvelope<ByteBuffer>
  package typealias OutboundOut = AddressedEnvelope<ByteBuffer>

  /// What it tells its owner, on the channel's event loop.
  package struct Events {
    package var packet: (DatagramRoute, ByteBuffer) -> Void
    package var readComplete: () -> Void
    package var writability: (Bool) -> Void
    /// The socket could not send or receive; it goes on.
    package var failed: (String) -> Void
  }

  /// The registered port of SCTP over UDP.
  package static let standardPort: UInt16 = 9_899
  /// Ethernet's 1,500 less 40 for IPv6 and 8 for UDP: fits IPv4 too.
  package static let standardMTU = 1_452
  /// Packets that one system call reads.
  private static let batch = 16
  /// 4 MiB for each direction: 80 ms at 400 Mbit/s; the kernel grants what its own limit allows.
  private static let socketBuffer: Int32 = 4 << 20

  package let local: Endpoint
  private let channel: any Channel
  private var events: Events?

  private init(channel: any Channel, local: Endpoint) {
    self.channel = channel
    self.local = local
  }

  /// Binds a socket and starts reading it; the future's value belongs to the loop.
  package static func bind(
    _ address: Endpoint, mtu: Int, loop: any EventLoop, events: Events
  ) -> EventLoopFuture<NIOLoopBound<DatagramCarrier>> {
    let box = NIOLoopBound(events, eventLoop: loop)
    return DatagramBootstrap(group: loop)
      .channelOption(.datagramVectorReadMessageCount, value: batch)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: batch * max(2_048, mtu)))
      .channelOption(.socketOption(.so_rcvbuf), value: .init(socketBuffer))
      .channelOption(.socketOption(.so_sndbuf), value: .init(socketBuffer))
      .channelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
      .bind(host: "\(address.address)", port: Int(address.port))
      .flatMapThrowing { channel in
        guard let local = channel.localAddress?.vocabulary else { throw ChannelError.operationUnsupported }
        let carrier = DatagramCarrier(channel: channel, local: local)
        carrier.events = box.value
        try channel.pipeline.syncOperations.addHandler(carrier)
        return NIOLoopBound(carrier, eventLoop: loop)
      }
  }

  package func write(_ packet: ByteBuffer, to remote: Endpoint) {
    guard let address = try? SocketAddress(remote) else { return }
    channel.write(AddressedEnvelope(remoteAddress: address, data: packet), promise: nil)
  }

  package func flush() { channel.flush() }
  package var isWritable: Bool { channel.isWritable }
  package func close() { channel.close(promise: nil) }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let envelope = unwrapInboundIn(data)
    guard let remote = envelope.remoteAddress.vocabulary else { return }
    events?.packet(DatagramRoute(local: local.address, remote: remote), envelope.data)
  }

  package func channelReadComplete(context: ChannelHandlerContext) { events?.readComplete() }

  package func channelWritabilityChanged(context: ChannelHandlerContext) { events?.writability(context.channel.isWritable) }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) { events?.failed(describe(error)) }
}
