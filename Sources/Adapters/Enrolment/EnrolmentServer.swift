import Certificates
import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import Sockets
import Synchronization
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The enrolment endpoint: gives certificates for tokens, renews them, and publishes revocations. It works on the CA's folder, which `longhaul pki`
/// may change at the same time; every request reads what stands there.
package final class EnrolmentServer: Sendable {
  private let authority: Authority
  private let logger: Logger
  private let clock: @Sendable () -> Date
  private let connectionLimit: TimeAmount
  private let identity: Mutex<NodeIdentity>

  package init(
    authority: Authority, logger: Logger, connectionLimit: TimeAmount = EnrolmentLimits.connectionLimit,
    clock: @escaping @Sendable () -> Date = { Date() }
  ) throws(CertificateError) {
    self.authority = authority
    self.connectionLimit = connectionLimit
    self.logger = logger
    self.clock = clock
    identity = Mutex(try authority.endpointIdentity(at: clock()))
  }

  /// Listens until its task is cancelled; `ready` hears where.
  package func run(listen: Endpoint, ready: @Sendable (Endpoint) -> Void = { _ in }) async throws {
    let listener = try await bind(listen)
    if let place = listener.localAddress?.vocabulary { ready(place) }
    try await withTaskCancellationHandler {
      try await listener.closeFuture.get()
    } onCancel: {
      listener.close(promise: nil)
    }
  }

  private func bind(_ listen: Endpoint) async throws -> any Channel {
    let bootstrap = ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .serverChannelOption(.backlog, value: 128)
      .serverChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(CrowdLimit(self.logger)) }
      }
      .childChannelInitializer { channel in channel.eventLoop.makeCompletedFuture { try self.accept(channel) } }
    do { return try await bootstrap.bind(to: try SocketAddress(listen)).get() } catch {
      throw EnrolmentError.notListening(on: "\(listen)", why: describe(error))
    }
  }

  private func accept(_ channel: any Channel) throws {
    let pipeline = channel.pipeline.syncOperations
    let gate = try currentIdentity().secure(pipeline, as: .server, expecting: .anyNode, clock: clock)
    try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false)
    let desk = EnrolmentDesk(authority: authority, clock: clock)
    try pipeline.addHandler(EnrolmentHandler(gate: gate, desk: desk, limit: connectionLimit, logger: logger, place: place(of: channel)))
  }

  /// The endpoint's own certificate is made anew at half its life.
  private func currentIdentity() throws(CertificateError) -> NodeIdentity {
    let now = clock()
    let known = identity.withLock { $0 }
    let age = now.timeIntervalSince(known.certificate.notBefore)
    if age < known.notAfter.timeIntervalSince(known.certificate.notBefore) / 2 { return known }
    let fresh = try authority.endpointIdentity(at: now)
    identity.withLock { $0 = fresh }
    return fresh
  }
}

/// Closes what comes while as many connections as the limit are open; on the listening channel, so that they count in the order of their coming.
private final class CrowdLimit: ChannelInboundHandler {
  typealias InboundIn = any Channel
  typealias InboundOut = any Channel

  private var open = 0
  private let logger: Logger

  init(_ logger: Logger) { self.logger = logger }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let child = unwrapInboundIn(data)
    guard open < EnrolmentLimits.connections else {
      logger.warning("connection closed: \(open) are open, the limit", metadata: ["peer": "\(place(of: child))"])
      child.close(promise: nil)
      return
    }
    open += 1
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    child.closeFuture.hop(to: context.eventLoop).whenComplete { _ in bound.value.open -= 1 }
    context.fireChannelRead(data)
  }
}

private func place(of channel: any Channel) -> String { channel.remoteAddress?.vocabulary.map { "\($0)" } ?? "unknown" }

/// Decides on one request. It reads and writes files, so it works on a thread of its own.
struct EnrolmentDesk: Sendable {
  struct Answer: Sendable {
    var status: HTTPResponseStatus
    var type = "application/json"
    var body: [UInt8]
    /// For the log.
    var words: String
  }

  let authority: Authority
  let clock: @Sendable () -> Date

  func answer(_ method: HTTPMethod, _ path: String, _ body: [UInt8], from peer: VerifiedPeer?) -> Answer {
    do throws(CertificateError) {
      switch (method, path) {
      case (.GET, EnrolmentPath.revocations):
        return Answer(
          status: .ok, type: "application/x-pem-file", body: Array(try authority.revocations(at: clock()).pem.utf8),
          words: "revocations given")
      case (.POST, EnrolmentPath.enrol):
        let asked = try decode(body)
        let token = try EnrolmentToken(asked.token ?? "")
        return try give(try authority.redeem(secret: token.secret, try SigningRequest(pem: asked.request), at: clock()))
      case (.POST, EnrolmentPath.renew):
        guard let peer else { throw .noCertificate }
        return try give(try authority.renew(peer, try SigningRequest(pem: try decode(body).request), at: clock()))
      default:
        return refuse(.notFound, "there is nothing at \(plain(method.rawValue)) \(plain(path))")
      }
    } catch {
      let status: HTTPResponseStatus =
        switch error {
        case .token, .noCertificate, .revoked: .forbidden
        case .unreadable, .unwritable, .content, .exposed, .tooMany: .internalServerError
        default: .badRequest
        }
      return refuse(status, "\(error)")
    }
  }

  /// What a stranger wrote, fit for one line of a log.
  private func plain(_ text: String) -> String {
    String(decoding: text.utf8.prefix(80).map { (33...126).contains($0) ? $0 : 63 }, as: UTF8.self)
  }

  private func decode(_ body: [UInt8]) throws(CertificateError) -> EnrolmentRequest {
    do { return try JSONDecoder().decode(EnrolmentRequest.self, from: Data(body)) } catch { throw .request("not the JSON of one") }
  }

  private func give(_ certificate: NodeCertificate) throws(CertificateError) -> Answer {
    let answer = EnrolmentAnswer(
      certificate: certificate.pem, authority: authority.certificate.pem, revocations: try authority.revocations(at: clock()).pem)
    return Answer(
      status: .ok, body: encode(answer),
      words:
        "certificate \(certificate.serial) given to \(certificate.name?.description ?? "nobody"), good until \(certificate.notAfter.inWords)"
    )
  }

  private func refuse(_ status: HTTPResponseStatus, _ words: String) -> Answer {
    Answer(status: status, body: encode(EnrolmentRefusal(error: words)), words: words)
  }

  private func encode(_ value: some Encodable) -> [UInt8] { (try? JSONEncoder().encode(value)).map { Array($0) } ?? [] }
}

/// One connection, one request: whatever else comes is answered with its end.
private final class EnrolmentHandler: ChannelInboundHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias OutboundOut = HTTPServerResponsePart

  private enum State {
    case waiting
    case reading(HTTPRequestHead, [UInt8])
    case answering
  }

  private var state = State.waiting
  private var timeout: Scheduled<Void>?
  private let gate: PeerGate
  private let desk: EnrolmentDesk
  private let limit: TimeAmount
  private let logger: Logger

  init(gate: PeerGate, desk: EnrolmentDesk, limit: TimeAmount, logger: Logger, place: String) {
    self.gate = gate
    self.limit = limit
    self.desk = desk
    var logger = logger
    logger[metadataKey: "peer"] = "\(place)"
    self.logger = logger
  }

  func handlerAdded(context: ChannelHandlerContext) {
    let channel = context.channel
    let (logger, limit) = (logger, limit)
    timeout = context.eventLoop.scheduleTask(in: limit) {
      logger.notice("connection closed: no whole request within \(limit.nanoseconds / 1_000_000_000) s")
      channel.close(promise: nil)
    }
  }

  func handlerRemoved(context: ChannelHandlerContext) { timeout?.cancel() }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch (unwrapInboundIn(data), state) {
    case (.head(let head), .waiting): state = .reading(head, [])
    case (.body(var part), .reading(let head, var body)):
      guard body.count + part.readableBytes <= EnrolmentLimits.requestOctets else {
        state = .answering
        let refusal = EnrolmentRefusal(error: "a request has at most \(EnrolmentLimits.requestOctets) octets")
        let octets = (try? JSONEncoder().encode(refusal)).map { Array($0) } ?? []
        return write(EnrolmentDesk.Answer(status: .payloadTooLarge, body: octets, words: refusal.error), context)
      }
      state = .waiting  // lets go of the array, so that it grows in place
      body += part.readBytes(length: part.readableBytes) ?? []
      state = .reading(head, body)
    case (.end, .reading(let head, let body)):
      state = .answering
      let (desk, peer) = (desk, try? gate.peer())
      let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
      NIOThreadPool.singleton.runIfActive(eventLoop: context.eventLoop) { desk.answer(head.method, head.uri, body, from: peer) }
        .whenSuccess { answer in
          let (handler, context) = bound.value
          handler.write(answer, context)
        }
    default: break  // more than one request, or the rest of one that was too large
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    // Once it is answered, however the other end goes is of no interest.
    if case .answering = state {
      logger.debug("connection ended: \(describe(error))")
    } else {
      logger.notice("connection refused: \(describe(error))")
    }
    context.close(promise: nil)
  }

  private func write(_ answer: EnrolmentDesk.Answer, _ context: ChannelHandlerContext) {
    if answer.status == .ok { logger.info("\(answer.words)") } else { logger.notice("request refused: \(answer.words)") }
    let headers: HTTPHeaders = ["content-type": answer.type, "content-length": "\(answer.body.count)", "connection": "close"]
    context.write(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: answer.status, headers: headers))), promise: nil)
    context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(bytes: answer.body)))), promise: nil)
    let channel = context.channel
    context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
  }
}
