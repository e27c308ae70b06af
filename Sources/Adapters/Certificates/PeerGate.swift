import NIOCore
import NIOSSL
import NIOTLS

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Which end of a TLS connection we are.
package enum TLSEnd: Sendable { case server, client }

/// Fired down a channel once TLS stands and the other end has been found to be whom we expect.
package struct PeerAdmitted: Sendable, Hashable {
  /// Nil only where peers without a certificate are welcome: at the enrolment endpoint.
  package let peer: VerifiedPeer?
}

/// Stands behind TLS in a channel: decides on the other end's certificate in the middle of the handshake, fires `PeerAdmitted` when it is over, and
/// turns whatever TLS complains of into words.
///
/// The handlers behind it hear of the connection in this order: nothing at all, then `PeerAdmitted`, then data; or one error, a
/// `CertificateError`, and the close.
package final class PeerGate: ChannelInboundHandler, RemovableChannelHandler {
  package typealias InboundIn = ByteBuffer
  package typealias InboundOut = ByteBuffer

  /// Ten round trips of a slow path of 500 ms, with time for a busy machine of many handshakes: then the other end is no friend.
  package static let handshakeLimit = TimeAmount.seconds(10)

  private enum State {
    case waiting(timeout: Scheduled<Void>?)
    case admitted(VerifiedPeer?)
    case refused
  }

  private var state = State.waiting(timeout: nil)
  private var verdict: Result<VerifiedPeer, CertificateError>?
  private var tls: NIOSSLHandler?
  /// Nil before the gate is in a pipeline.
  package private(set) var loop: (any EventLoop)?
  private let end: TLSEnd
  private let isAnyoneWelcome: Bool
  private let decide: ([[UInt8]]) -> Result<VerifiedPeer, CertificateError>

  init(end: TLSEnd, isAnyoneWelcome: Bool, decide: @escaping ([[UInt8]]) -> Result<VerifiedPeer, CertificateError>) {
    self.end = end
    self.isAnyoneWelcome = isAnyoneWelcome
    self.decide = decide
  }

  /// Who is at the other end; throws before the handshake is over, and ever after if it failed.
  package func peer() throws(CertificateError) -> VerifiedPeer {
    if case .admitted(let peer?) = state { return peer }
    if case .failure(let error)? = verdict { throw error }
    throw .noCertificate
  }

  /// TLS asks, with the chain as it was shown, the peer's own certificate first.
  func judge(_ chain: [NIOSSLCertificate], _ promise: EventLoopPromise<NIOSSLVerificationResult>) {
    let verdict = decide(chain.map { (try? $0.toDERBytes()) ?? [] })
    self.verdict = verdict
    if case .success = verdict { promise.succeed(.certificateVerified) } else { promise.succeed(.failed) }
  }

  /// Takes TLS and this gate out of a connection that goes on without them; not from within a call that came through them. Both ends know by then that no
  /// further TLS record comes.
  package func leave(_ pipeline: ChannelPipeline.SynchronousOperations) {
    if let tls { pipeline.removeHandler(tls, promise: nil) }
    tls = nil
    pipeline.removeHandler(self, promise: nil)
  }

  /// Closes a connection at once, without the farewell of TLS for which a close waits: for one that is given up. False: there is no TLS on it.
  package static func closeBelowTLS(_ channel: any Channel) -> Bool {
    let pipeline = channel.pipeline.syncOperations
    let context =
      (try? pipeline.context(handlerType: NIOSSLClientHandler.self)) ?? (try? pipeline.context(handlerType: NIOSSLServerHandler.self))
    context?.close(promise: nil)
    return context != nil
  }

  // MARK: The channel

  package func handlerAdded(context: ChannelHandlerContext) {
    loop = context.eventLoop
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    state = .waiting(
      timeout: context.eventLoop.scheduleTask(in: PeerGate.handshakeLimit) {
        let (gate, context) = bound.value
        gate.refuse(.tls("the TLS handshake was not over within \(PeerGate.handshakeLimit.nanoseconds / 1_000_000_000) s"), context)
      })
  }

  package func handlerRemoved(context: ChannelHandlerContext) {
    if case .waiting(let timeout) = state { timeout?.cancel() }
  }

  package func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case .handshakeCompleted? = event as? TLSUserEvent else { return context.fireUserInboundEventTriggered(event) }
    guard case .waiting(let timeout) = state else { return }
    switch verdict {
    case .success(let peer)?: state = .admitted(peer)
    case nil where isAnyoneWelcome: state = .admitted(nil)
    case .failure(let why)?: return refuse(why, context)
    // TLS demands a certificate; if none was looked at an earlier session is resumed, for which revocations would count for nothing.
    case nil:
      return refuse(
        .tls("the peer resumes an earlier TLS session, in which it shows no certificate; it must begin a new one"), context)
    }
    timeout?.cancel()
    context.fireUserInboundEventTriggered(event)
    if case .admitted(let peer) = state { context.fireUserInboundEventTriggered(PeerAdmitted(peer: peer)) }
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    guard case .admitted = state else { return }
    context.fireChannelRead(data)
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) {
    switch state {
    case .refused: return  // said already
    case .waiting:
      if case .failure(let why)? = verdict { return refuse(why, context) }
      refuse(TLSWords.failure(of: error, end: end), context)
    case .admitted:
      // With TLS 1.3 a client is through before the server has seen its certificate: a refusal comes as an alert after the handshake.
      if let words = TLSWords.end(of: error) {
        refuse(.tls(words), context)
      } else {
        context.fireErrorCaught(error)
      }
    }
  }

  package func channelInactive(context: ChannelHandlerContext) {
    if case .waiting = state {
      refuse(.tls("the other end closed the connection in the middle of the TLS handshake; its log says why"), context)
    }
    context.fireChannelInactive()
  }

  private func refuse(_ error: CertificateError, _ context: ChannelHandlerContext) {
    if case .waiting(let timeout) = state { timeout?.cancel() }
    state = .refused
    context.fireErrorCaught(error)
    // In a moment: TLS may have an alert to send that tells the other end.
    let channel = context.channel
    context.eventLoop.execute { channel.close(promise: nil) }
  }
}

extension NodeIdentity {
  /// Puts TLS and its gate at the end of the pipeline as it stands; what is added next speaks in the clear with `PeerGate`'s peer.
  @discardableResult
  package func secure(
    _ pipeline: ChannelPipeline.SynchronousOperations, as end: TLSEnd, expecting expectation: PeerExpectation,
    clock: @escaping @Sendable () -> Date = { Date() }
  ) throws -> PeerGate {
    let trust = trust
    let gate = PeerGate(end: end, isAnyoneWelcome: end == .server && isAnyoneWelcome) { chain in
      Result { () throws(CertificateError) -> VerifiedPeer in
        guard let leaf = chain.first else { throw .noCertificate }
        return try trust.verify(leaf, expecting: expectation, at: clock())
      }
    }
    try gate.add(to: pipeline, context: end == .server ? tlsServer() : tlsClient())
    return gate
  }
}

/// The client side of TLS for a machine that has no certificate, and comes for one, or for what anyone may know.
package enum Stranger {
  /// Shows nothing, and admits only the CA's own endpoint: of the CA with this fingerprint, whose certificate the endpoint shows beside its own.
  @discardableResult
  package static func secure(
    _ pipeline: ChannelPipeline.SynchronousOperations, fingerprint: [UInt8], clock: @escaping @Sendable () -> Date = { Date() }
  ) throws -> PeerGate {
    let gate = PeerGate(end: .client, isAnyoneWelcome: false) { chain in
      Result { () throws(CertificateError) -> VerifiedPeer in
        guard let leaf = chain.first else { throw .noCertificate }
        // No more are looked at than a CA and its successor need.
        for der in chain.dropFirst().prefix(TrustStore.maximumRoots) {
          guard let root = try? NodeCertificate(der: der), root.fingerprintOctets == fingerprint else { continue }
          return try TrustStore(roots: [root]).verify(leaf, expecting: .authority, at: clock())
        }
        throw .token(.otherAuthority)
      }
    }
    try gate.add(to: pipeline, context: TLSContexts.makeStranger())
    return gate
  }
}

extension PeerGate {
  func add(to pipeline: ChannelPipeline.SynchronousOperations, context: NIOSSLContext) throws {
    let tls: NIOSSLHandler =
      switch end {
      case .server: NIOSSLServerHandler(context: context, customVerificationCallback: { self.judge($0, $1) })
      case .client: try NIOSSLClientHandler(context: context, serverHostname: nil, customVerificationCallback: { self.judge($0, $1) })
      }
    self.tls = tls
    try pipeline.addHandlers([tls, self])
  }
}
