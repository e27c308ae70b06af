import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

/// One UDP socket, bound to one address, that carries SCTP packets (RFC 6951): a datagram is a packet.
///
/// Its address is the source of all that leaves here, so a path's source is pinned by the choice of the socket. A socket that fails (NIO closes one when the network is unreachable, as
/// after a link went down) is made anew, at the same address and port, until the owner closes the carrier.
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
  /// IP_MTU_DISCOVER = IP_PMTUDISC_PROBE (linux/in.h): packets carry DF and may be larger than the kernel believes in, as RFC 8899's probes are.
  private static let probing = ChannelOptions.Types.SocketOption(level: .ip, name: .init(rawValue: 10))
  private static let probing6 = ChannelOptions.Types.SocketOption(level: .ipv6, name: .init(rawValue: 23))
  /// 4 MiB for each direction: 80 ms at 400 Mbit/s; the kernel grants what its own limit allows.
  private static let socketBuffer: Int32 = 4 << 20
  /// Between the end of a socket and the next one: a quarter of the least RTO that RFC 9260 allows, so that a link that is back is used before its path counts as failed.
  private static let pauseBeforeReopening = TimeAmount.milliseconds(250)

  package private(set) var local: Endpoint
  private let mtu: Int
  private let probesMTU: Bool
  private let loop: any EventLoop
  private let events: Events
  /// Nil between two sockets: what is written then is lost, as datagrams may be.
  private var channel: (any Channel)?
  private var isClosed = false
  /// Only the first of a row of failures is told.
  private var hasComplained = false

  private init(_ address: Endpoint, mtu: Int, probesMTU: Bool, loop: any EventLoop, events: Events) {
    local = address
    self.mtu = mtu
    self.probesMTU = probesMTU
    self.loop = loop
    self.events = events
  }

  /// Binds a socket and starts reading it; the future's value belongs to the loop.
  package static func bind(
    _ address: Endpoint, mtu: Int, probesMTU: Bool = false, loop: any EventLoop, events: Events
  ) -> EventLoopFuture<NIOLoopBound<DatagramCarrier>> {
    let carrier = NIOLoopBound(DatagramCarrier(address, mtu: mtu, probesMTU: probesMTU, loop: loop, events: events), eventLoop: loop)
    return carrier.value.open().map { carrier }
  }

  private func open() -> EventLoopFuture<Void> {
    let bound = NIOLoopBound(self, eventLoop: loop)
    let probe = local.address.isVersion6 ? Self.probing6 : Self.probing
    var bootstrap = DatagramBootstrap(group: loop)
    if probesMTU { bootstrap = bootstrap.channelOption(probe, value: 3) }
    return
      bootstrap
      .channelOption(.datagramVectorReadMessageCount, value: Self.batch)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: Self.batch * max(2_048, mtu)))
      .channelOption(.socketOption(.so_rcvbuf), value: .init(Self.socketBuffer))
      .channelOption(.socketOption(.so_sndbuf), value: .init(Self.socketBuffer))
      .channelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
      .bind(host: "\(local.address)", port: Int(local.port))
      .flatMapThrowing { channel in
        let carrier = bound.value
        guard let local = channel.localAddress?.vocabulary, !carrier.isClosed else {
          channel.close(promise: nil)
          throw ChannelError.operationUnsupported
        }
        carrier.local = local
        try channel.pipeline.syncOperations.addHandler(carrier)
        carrier.channel = channel
        carrier.hasComplained = false
        carrier.events.writability(true)
      }
  }

  private func openLater() {
    guard !isClosed else { return }
    let bound = NIOLoopBound(self, eventLoop: loop)
    loop.scheduleTask(in: Self.pauseBeforeReopening) {
      let carrier = bound.value
      guard !carrier.isClosed else { return }
      carrier.open().whenFailure {
        bound.value.complain(describe($0))
        bound.value.openLater()
      }
    }
  }

  private func complain(_ what: String) {
    guard !hasComplained, !isClosed else { return }
    hasComplained = true
    events.failed("\(local): \(what)")
  }

  package func write(_ packet: ByteBuffer, to remote: Endpoint) {
    guard let address = try? SocketAddress(remote) else { return }
    channel?.write(AddressedEnvelope(remoteAddress: address, data: packet), promise: nil)
  }

  package func flush() { channel?.flush() }
  package var isWritable: Bool { channel?.isWritable ?? true }

  package func close() {
    isClosed = true
    channel?.close(promise: nil)
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let envelope = unwrapInboundIn(data)
    guard let remote = envelope.remoteAddress.vocabulary else { return }
    events.packet(DatagramRoute(local: local.address, remote: remote), envelope.data)
  }

  package func channelReadComplete(context: ChannelHandlerContext) { events.readComplete() }

  package func channelWritabilityChanged(context: ChannelHandlerContext) { events.writability(context.channel.isWritable) }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) { complain(describe(error)) }

  package func channelInactive(context: ChannelHandlerContext) {
    channel = nil
    complain("the socket failed, and is made anew")
    openLater()
  }

  /// The address of ours that packets to `remote` leave from, as the kernel's routes have it. Nothing is sent.
  package static func source(toward remote: Endpoint, loop: any EventLoop) -> EventLoopFuture<IPAddress> {
    loop.makeCompletedFuture { try SocketAddress(remote) }
      .flatMap { DatagramBootstrap(group: loop).connect(to: $0) }
      .flatMapThrowing { channel in
        defer { channel.close(promise: nil) }
        guard let local = channel.localAddress?.vocabulary else { throw ChannelError.operationUnsupported }
        return local.address
      }
  }
}
