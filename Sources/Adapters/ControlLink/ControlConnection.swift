import NIOCore
import NIOHTTP1
import Sockets

/// One HTTP/1.1 connection to the controller, on its event loop: one request at a time, the answer in parts.
final class ControlConnection: ChannelInboundHandler {
  typealias InboundIn = HTTPClientResponsePart
  typealias OutboundOut = HTTPClientRequestPart

  enum Event {
    case head(HTTPResponseHead)
    case body(ByteBuffer)
    case end
    /// Once, and the last event.
    case closed(reason: String)
  }

  /// Where events go; nil once nobody wants them any more.
  var onEvent: ((Event) -> Void)?
  private let controller: String
  private let authorization: String?
  private var context: ChannelHandlerContext?
  private var closeReason: String?

  init(controller: String, authorization: String?) {
    self.controller = controller
    self.authorization = authorization
  }

  var isOpen: Bool { context?.channel.isActive == true }

  func request(_ method: HTTPMethod, _ path: String, json: [UInt8]? = nil) {
    guard let context else { return }
    var headers: HTTPHeaders = ["host": controller]
    if let authorization { headers.add(name: "authorization", value: authorization) }
    if let json {
      headers.add(name: "content-type", value: "application/json")
      headers.add(name: "content-length", value: "\(json.count)")
    } else {
      headers.add(name: "accept", value: "text/event-stream")
    }
    context.write(wrapOutboundOut(.head(HTTPRequestHead(version: .http1_1, method: method, uri: path, headers: headers))), promise: nil)
    if let json { context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(bytes: json)))), promise: nil) }
    context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
  }

  /// Ends the connection; its owner hears no more of it.
  func drop() {
    onEvent = nil
    context?.close(promise: nil)
  }

  // MARK: The channel

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head): onEvent?(.head(head))
    case .body(let bytes): onEvent?(.body(bytes))
    case .end: onEvent?(.end)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if closeReason == nil { closeReason = describe(error) }
    context.close(promise: nil)
  }

  func channelInactive(context: ChannelHandlerContext) {
    let sink = onEvent
    onEvent = nil
    sink?(.closed(reason: closeReason ?? "connection closed by the controller"))
    context.fireChannelInactive()
  }
}
