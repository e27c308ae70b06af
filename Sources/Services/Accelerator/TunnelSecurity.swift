import Authentication
import Certificates
import NIOCore
import Sockets
import Tunnel
import Vocabulary

/// How tunnel connections prove who is at their other end: by a key that all nodes share, or by certificates and inside TLS (docs/decisions/0013).
enum TunnelSecurity: Sendable {
  case key(EndpointKey)
  case certificates(IdentityKeeper)

  /// Of the proofs inside TLS, which prove nothing that TLS has not: no secret, and the same at every node.
  private static let keyInsideTLS = EndpointKey(octets: Array("longhaul tunnel inside TLS 1.3".utf8))

  /// Puts what secures a tunnel connection at the end of the pipeline, before the link.
  ///
  /// - Parameter peer: whom the dialler means; nil at the acceptor.
  /// - Returns: who knows the peer's certificate; nil without certificates.
  func secure(_ channel: any Channel, as role: TunnelConnection.Role, peer: NodeID?) throws -> PeerGate? {
    let pipeline = channel.pipeline.syncOperations
    switch self {
    case .key:
      try pipeline.addHandler(PlainTunnelGuard(role: role))
      return nil
    case .certificates(let keeper):
      let gate = try keeper.current.secure(
        pipeline, as: role == .dialler ? .client : .server, expecting: PeerExpectation([.accelerator], name: peer?.text))
      try pipeline.addHandler(RecordPacker())
      return gate
    }
  }

  /// - Parameter gate: at the acceptor, the gate of the connection: HELLO must name the node that the certificate names.
  func prover(behind gate: PeerGate?) -> TunnelProver {
    switch self {
    case .key(let key): return TunnelSecurity.prover(key)
    case .certificates:
      var prover = TunnelSecurity.prover(TunnelSecurity.keyInsideTLS)
      guard let gate, let loop = gate.loop else { return prover }
      let bound = NIOLoopBound(gate, eventLoop: loop)
      prover.refusal = { node in
        do throws(CertificateError) {
          let name = try bound.value.peer().name
          guard name.name != node.text else { return nil }
          return TunnelGoodbye(.wrongPeer, "the caller says that it is \(node), and its certificate is that of \(name); correct its --node")
        } catch {
          return TunnelGoodbye(.wrongKey, "\(error)")
        }
      }
      return prover
    }
  }

  private static func prover(_ key: EndpointKey) -> TunnelProver {
    TunnelProver(proof: { key.tunnelProof(transcript: $0) }, verify: { key.verifyTunnelProof($0, transcript: $1) })
  }
}

/// Stands before a link without certificates and knows TLS by its first octets, so that two ends of which one has certificates can say so.
final class PlainTunnelGuard: ChannelInboundHandler, RemovableChannelHandler {
  typealias InboundIn = ByteBuffer
  typealias InboundOut = ByteBuffer

  private let role: TunnelConnection.Role

  init(role: TunnelConnection.Role) { self.role = role }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    if PlainTunnelGuard.isTLS(unwrapInboundIn(data)) {
      let other = role == .dialler ? "the peer answers" : "the caller speaks"
      context.fireErrorCaught(
        TunnelGoodbye(.wrongKey, "\(other) TLS: it has --certificates, and this accelerator has none; give them to both"))
    } else {
      context.fireChannelRead(data)
    }
    // One read decides: no tunnel's first octet is a TLS record's, and TLS is never begun later.
    context.pipeline.syncOperations.removeHandler(context: context, promise: nil)
  }

  /// A record of the handshake or an alert, of any version of SSL 3 and TLS (RFC 8446 section 5.1).
  static func isTLS(_ bytes: ByteBuffer) -> Bool {
    guard let kind: UInt8 = bytes.getInteger(at: bytes.readerIndex), let major: UInt8 = bytes.getInteger(at: bytes.readerIndex + 1) else {
      return false
    }
    return (21...22).contains(kind) && major == 3
  }
}

/// Joins what a link writes in one turn before it becomes TLS records: each write would be one of its own, a frame's header of eight octets, too,
/// and a record costs 22 octets and a call of the cipher. The copy costs less.
final class RecordPacker: ChannelOutboundHandler {
  typealias OutboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  /// Four whole records of 16 KiB, the most that one has (RFC 8446 section 5.1).
  static let capacity = 64 << 10

  private var packed = ByteBuffer()
  private var promise: EventLoopPromise<Void>?

  func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
    let bytes = unwrapOutboundIn(data)
    if packed.readableBytes + bytes.readableBytes > RecordPacker.capacity { pass(context) }
    if packed.readableBytes == 0, bytes.readableBytes >= RecordPacker.capacity { return context.write(data, promise: promise) }
    if packed.readableBytes == 0 { packed = context.channel.allocator.buffer(capacity: max(bytes.readableBytes, 1_024)) }
    packed.writeImmutableBuffer(bytes)
    if let promise {
      if let first = self.promise { first.futureResult.cascade(to: promise) } else { self.promise = promise }
    }
  }

  func flush(context: ChannelHandlerContext) {
    pass(context)
    context.flush()
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    promise?.fail(ChannelError.ioOnClosedChannel)
    promise = nil
  }

  private func pass(_ context: ChannelHandlerContext) {
    guard packed.readableBytes > 0 || promise != nil else { return }
    let (bytes, promise) = (packed, promise)
    packed = ByteBuffer()
    self.promise = nil
    context.write(wrapOutboundOut(bytes), promise: promise)
  }
}
