import Control
import Foundation
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import Vocabulary

/// The controller's side of the link as a test wants it: answers what it is told to, keeps what it gets.
package final class ControllerDouble: Sendable {
  package struct Request: Sendable {
    package var method: HTTPMethod
    package var path: String
    package var headers: HTTPHeaders
    package var body: [UInt8]
    /// The address that the node connected from.
    package var source: String

    package func json<T: Decodable>(_ type: T.Type) throws -> T { try JSONDecoder().decode(type, from: Data(body)) }
    package var isRegistration: Bool { path == "/v1/nodes" }
    package var isReports: Bool { path.hasSuffix("/reports") }
  }

  package struct Answer: Sendable {
    package var status: HTTPResponseStatus
    package var type: String
    package var body: String
    /// Takes the request and says nothing.
    package var isSilent: Bool

    package init(
      status: HTTPResponseStatus = .ok, type: String = "text/event-stream", body: String = "", isSilent: Bool = false
    ) {
      self.status = status
      self.type = type
      self.body = body
      self.isSilent = isSilent
    }
  }

  package let endpoint: Endpoint
  package let requests = Inbox<Request>()
  private let channel: any Channel
  private let children: Mutex<[any Channel]>
  private let streams: Mutex<[any Channel]>

  package static func start(
    at endpoint: Endpoint = Endpoint("127.0.0.1:0")!, answer: @escaping @Sendable (Request) -> Answer = { _ in Answer() }
  ) async throws -> ControllerDouble {
    let box = Mutex<ControllerDouble?>(nil)
    let holder = Holder(box)
    let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.configureHTTPServerPipeline()
          try channel.pipeline.syncOperations.addHandler(Handler(holder, answer))
        }
      }
      .bind(to: SocketAddress(ipAddress: "\(endpoint.address)", port: Int(endpoint.port))).get()
    let double = ControllerDouble(channel, Endpoint(address: endpoint.address, port: UInt16(channel.localAddress!.port!)))
    holder.box.withLock { $0 = double }
    return double
  }

  private init(_ channel: any Channel, _ endpoint: Endpoint) {
    self.channel = channel
    self.endpoint = endpoint
    children = Mutex([])
    streams = Mutex([])
  }

  /// Ends everything, as a controller that is killed.
  package func kill() async throws {
    try await channel.close()
    for child in children.withLock({ $0 }) { try? await child.close() }
  }

  /// Ends the connections and goes on listening.
  package func cut() async {
    let open = children.withLock { open in
      defer { open = [] }
      return open
    }
    for child in open { try? await child.close() }
  }

  package func order(_ order: NodeOrder) async throws { try await send("data: \(json(order))\n\n") }

  /// To the stream that was opened last, in one piece or in pieces of so many octets, each flushed.
  package func send(_ text: String, piece: Int = .max) async throws {
    let octets = Array(text.utf8)
    guard let stream = streams.withLock({ $0.last }) else { throw Inbox<Request>.NothingCame() }
    var start = 0
    while start < octets.count {
      let end = piece < octets.count - start ? start + piece : octets.count
      try await stream.writeAndFlush(HTTPServerResponsePart.body(.byteBuffer(ByteBuffer(bytes: octets[start..<end]))))
      start = end
    }
  }

  private final class Holder: Sendable {
    let box: Mutex<ControllerDouble?>
    init(_ box: consuming Mutex<ControllerDouble?>) { self.box = box }
  }

  private final class Handler: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private let holder: Holder
    private let answer: @Sendable (Request) -> Answer
    private var head: HTTPRequestHead?
    private var body: [UInt8] = []

    init(_ holder: Holder, _ answer: @escaping @Sendable (Request) -> Answer) {
      self.holder = holder
      self.answer = answer
    }

    func channelActive(context: ChannelHandlerContext) {
      let channel = context.channel
      holder.box.withLock { $0 }?.children.withLock { $0.append(channel) }
      context.fireChannelActive()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      switch unwrapInboundIn(data) {
      case .head(let head):
        self.head = head
        body = []
      case .body(var bytes): body += bytes.readBytes(length: bytes.readableBytes) ?? []
      case .end: finish(context)
      }
    }

    private func finish(_ context: ChannelHandlerContext) {
      guard let head, let double = holder.box.withLock({ $0 }) else { return }
      let request = Request(
        method: head.method, path: head.uri, headers: head.headers, body: body, source: context.channel.remoteAddress?.ipAddress ?? "?")
      let answer = self.answer(request)
      defer { double.requests.put(request) }
      guard !answer.isSilent else { return }
      let isStream = head.method == .GET && answer.status == .ok
      var headers: HTTPHeaders = ["content-type": isStream ? answer.type : "text/plain"]
      if !isStream { headers.add(name: "content-length", value: "\(answer.body.utf8.count)") }
      context.write(wrapOutboundOut(.head(HTTPResponseHead(version: .http1_1, status: answer.status, headers: headers))), promise: nil)
      if !answer.body.isEmpty { context.write(wrapOutboundOut(.body(.byteBuffer(ByteBuffer(string: answer.body)))), promise: nil) }
      if isStream {
        context.flush()
        let channel = context.channel
        double.streams.withLock { $0.append(channel) }
      } else {
        context.writeAndFlush(wrapOutboundOut(.end(nil)), promise: nil)
      }
    }
  }
}

package func json(_ value: some Encodable) throws -> String {
  let encoder = JSONEncoder()
  encoder.outputFormatting = [.sortedKeys]
  return String(decoding: try encoder.encode(value), as: UTF8.self)
}
