import Logging
import NIOCore
import NIOHTTP1
import NIOPosix
import Sockets
import Vocabulary

/// Answers GET of a few pages over HTTP, one request a connection.
package final class FiguresServer: Sendable {
  /// A scraper and some people.
  package static let maximumConnections = 32
  /// From the connection to the end of its answer: a page of 1 MiB at 1 Mbit/s takes 8 s.
  package static let limit = TimeAmount.seconds(15)

  /// What is answered.
  package struct Answer: Sendable {
    package var status: HTTPResponseStatus
    package var type: String
    package var body: String

    package init(_ body: String, status: HTTPResponseStatus = .ok, type: String = "text/plain; charset=utf-8") {
      self.status = status
      self.type = type
      self.body = body
    }
  }

  package typealias Page = @Sendable () async -> Answer

  package let endpoint: Endpoint
  private let channel: any Channel

  private init(_ channel: any Channel, endpoint: Endpoint) {
    self.channel = channel
    self.endpoint = endpoint
  }

  /// - Parameters:
  ///   - pages: what stands at which path.
  ///   - secure: puts TLS in front, where it is wanted.
  package static func bind(
    to endpoint: Endpoint, on loop: any EventLoop, pages: [String: Page], logger: Logger,
    secure: (@Sendable (any Channel) throws -> Void)? = nil
  ) async throws -> FiguresServer {
    let bound = try await loop.submit { NIOLoopBound(Guests(), eventLoop: loop) }.get()
    let bootstrap = ServerBootstrap(group: loop)
      .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
      .serverChannelOption(.backlog, value: 32)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          guard bound.value.enter(channel) else { return channel.close(promise: nil) }
          try secure?(channel)
          let pipeline = channel.pipeline.syncOperations
          try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: false, withErrorHandling: true)
          try pipeline.addHandler(FiguresHandler(pages: pages, logger: logger))
        }
      }
    let channel = try await bootstrap.bind(to: try SocketAddress(endpoint)).get()
    return FiguresServer(channel, endpoint: channel.localAddress?.vocabulary ?? endpoint)
  }

  package func close() async { try? await channel.close() }

  /// Counts connections; on the loop that all of them live on.
  private final class Guests {
    private var count = 0

    func enter(_ channel: any Channel) -> Bool {
      guard count < FiguresServer.maximumConnections else { return false }
      count += 1
      channel.closeFuture.assumeIsolated().whenComplete { _ in self.count -= 1 }
      return true
    }
  }
}

/// One connection: reads one request, answers it, closes.
private final class FiguresHandler: ChannelInboundHandler {
  typealias InboundIn = HTTPServerRequestPart
  typealias OutboundOut = HTTPServerResponsePart

  private let pages: [String: FiguresServer.Page]
  private let logger: Logger
  private var request: HTTPRequestHead?
  private var isAnswering = false
  private var deadline: Scheduled<Void>?

  init(pages: [String: FiguresServer.Page], logger: Logger) {
    self.pages = pages
    self.logger = logger
  }

  func handlerAdded(context: ChannelHandlerContext) {
    let channel = context.channel
    deadline = context.eventLoop.scheduleTask(in: FiguresServer.limit) { channel.close(promise: nil) }
  }

  func handlerRemoved(context: ChannelHandlerContext) { deadline?.cancel() }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    switch unwrapInboundIn(data) {
    case .head(let head): if request == nil { request = head }
    case .body: return  // of a GET that has one; nobody reads it
    case .end:
      guard let request, !isAnswering else { return }
      isAnswering = true
      answer(request, context)
    }
  }

  private func answer(_ request: HTTPRequestHead, _ context: ChannelHandlerContext) {
    let path = String(request.uri.prefix { $0 != "?" })
    guard request.method == .GET || request.method == .HEAD else {
      return write(.init("only GET is answered here\n", status: .methodNotAllowed), request, context)
    }
    guard let page = pages[path] else {
      let paths = pages.keys.sorted().joined(separator: ", ")
      return write(.init("there is nothing here; there is \(paths)\n", status: .notFound), request, context)
    }
    let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
    let loop = context.eventLoop
    Task {
      let answer = await page()
      loop.execute { bound.value.0.write(answer, request, bound.value.1) }
    }
  }

  private func write(_ answer: FiguresServer.Answer, _ request: HTTPRequestHead, _ context: ChannelHandlerContext) {
    guard context.channel.isActive else { return }
    let body = context.channel.allocator.buffer(string: answer.body)
    var head = HTTPResponseHead(version: .http1_1, status: answer.status)
    head.headers.add(name: "Content-Type", value: answer.type)
    head.headers.add(name: "Content-Length", value: "\(body.readableBytes)")
    head.headers.add(name: "Cache-Control", value: "no-store")
    head.headers.add(name: "Connection", value: "close")
    if answer.status == .methodNotAllowed { head.headers.add(name: "Allow", value: "GET, HEAD") }
    context.write(wrapOutboundOut(.head(head)), promise: nil)
    if request.method != .HEAD { context.write(wrapOutboundOut(.body(.byteBuffer(body))), promise: nil) }
    let channel = context.channel
    context.writeAndFlush(wrapOutboundOut(.end(nil))).whenComplete { _ in channel.close(promise: nil) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    logger.debug("a request for figures came to nothing", metadata: ["error": "\(error)"])
    context.close(promise: nil)
  }
}
