import Certificates
import NIOCore
import NIOHTTP1

/// One request and its answer on a connection to the enrolment endpoint; sends nothing before the endpoint has been admitted.
final class EnrolmentExchange: ChannelInboundHandler {
  typealias InboundIn = HTTPClientResponsePart
  typealias OutboundOut = HTTPClientRequestPart

  struct Request: Sendable {
    var method: HTTPMethod
    var path: String
    var host: String
    var body: [UInt8]
  }

  struct Result: Sendable {
    var status: HTTPResponseStatus
    var body: [UInt8]
    var peer: VerifiedPeer
  }

  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  private let request: Request
  private let gate: PeerGate
  /// Nil once it has been kept.
  private var promise: EventLoopPromise<Result>?
  private var status: HTTPResponseStatus?
  private var body: [UInt8] = []
  private var timeout: Scheduled<Void>?

  init(_ request: Request, gate: PeerGate, promise: EventLoopPromise<Result>) {
    self.request = request
    self.gate = gate
    self.promise = promise
  }

  func handlerAdded(context: ChannelHandlerContext) {
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    timeout = context.eventLoop.scheduleTask(in: EnrolmentLimits.askLimit) {
      let (handler, context) = bound.value
      handler.fail(Failure(description: "no answer within \(EnrolmentLimits.askLimit.nanoseconds / 1_000_000_000) s"), context)
    }
  }

  func handlerRemoved(context: ChannelHandlerContext) { timeout?.cancel() }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard event is PeerAdmitted else { return context.fireUserInboundEventTriggered(event) }
    var headers: HTTPHeaders = ["host": request.host, "connection": "close"]
    if !request.body.isEmpty {
      headers.add(name: "content-type", value: "application/json")
      headers.add(name: "content-length", value: "\(request.body.count)")
    }
    let head = HTTPRequestHead(version: .http1_1, method: request.method, uri: request.path, headers: headers)
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    if !request.body.isEmpty { context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(bytes: request.body)))), promise: nil) }
    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head): status = head.status
    case .body(var part):
      guard body.count + part.readableBytes <= EnrolmentLimits.answerOctets else {
        return fail(Failure(description: "the answer has more than \(EnrolmentLimits.answerOctets) octets"), context)
      }
      body += part.readBytes(length: part.readableBytes) ?? []
    case .end:
      guard let status, let promise else { return }
      self.promise = nil
      timeout?.cancel()
      do { promise.succeed(Result(status: status, body: body, peer: try gate.peer())) } catch { promise.fail(error) }
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { fail(error, context) }

  func channelInactive(context: ChannelHandlerContext) {
    fail(Failure(description: "the connection ended before there was an answer"), context)
    context.fireChannelInactive()
  }

  private func fail(_ error: any Error, _ context: ChannelHandlerContext) {
    timeout?.cancel()
    promise?.fail(error)
    promise = nil
    context.close(promise: nil)
  }
}
