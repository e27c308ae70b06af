import Certificates
import Flows
import NIOCore
import NIOPosix
import Sockets
import Tunnel
import Vocabulary

/// A caller with a good certificate that says another name in its HELLO.
enum FalseCaller {
  /// What the acceptor says in its GOODBYE.
  static func call(_ place: Endpoint, as node: NodeID, certificates: String) async throws -> String {
    let identity = try NodeIdentity(directory: certificates)
    let (goodbyes, heard) = AsyncThrowingStream.makeStream(of: String.self)
    let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let pipeline = channel.pipeline.syncOperations
          try identity.secure(pipeline, as: .client, expecting: .accelerator)
          try pipeline.addHandler(Caller(node: node, heard: heard))
        }
      }
      .connect(to: try SocketAddress(place)).get()
    defer { channel.close(promise: nil) }
    let limit = channel.eventLoop.scheduleTask(in: .seconds(10)) { heard.finish() }
    defer { limit.cancel() }
    for try await goodbye in goodbyes { return goodbye }
    return "nothing"
  }

  private final class Caller: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let node: NodeID
    private let heard: AsyncThrowingStream<String, any Error>.Continuation
    private var decoder = TunnelFrameDecoder()

    init(node: NodeID, heard: AsyncThrowingStream<String, any Error>.Continuation) {
      self.node = node
      self.heard = heard
    }

    func channelActive(context: ChannelHandlerContext) {
      var hello = ByteBuffer()
      TunnelFrame.hello(
        TunnelHello(node: node, peer: "b", maximumFlows: 1, nonce: [UInt8](repeating: 7, count: TunnelLimits.nonceOctets))
      ).write(into: &hello)
      context.writeAndFlush(wrapOutboundOut(hello), promise: nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      decoder.append(unwrapInboundIn(data))
      do {
        while let frame = try decoder.next() {
          if case .goodbye(let goodbye) = frame { heard.yield(goodbye.text) }
        }
      } catch {
        heard.finish(throwing: error)
      }
    }

    func channelInactive(context: ChannelHandlerContext) { heard.finish() }
  }
}
