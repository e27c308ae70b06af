import NIOCore
import NIOHTTP1
import NIOPosix
import Sockets
import Vocabulary

/// Asks a `FiguresServer`, for commands.
package enum FiguresClient {
  /// 1,000 flows are 400 KiB.
  static let maximumAnswer = 8 << 20
  /// For the connection, and again for the answer.
  static let limit = TimeAmount.seconds(10)

  /// - Parameter secure: puts TLS in front, where it is wanted.
  package static func get(
    _ path: String, at place: Endpoint, secure: (@Sendable (any Channel) throws -> Void)? = nil
  ) async throws(FiguresError) -> [UInt8] {
    let response: NIOHTTPClientResponseFull
    do {
      let promise = MultiThreadedEventLoopGroup.singleton.any().makePromise(of: NIOHTTPClientResponseFull.self)
      let channel: any Channel
      do {
        channel = try await ClientBootstrap(group: promise.futureResult.eventLoop)
          .connectTimeout(limit)
          .channelInitializer { channel in
            channel.eventLoop.makeCompletedFuture {
              try secure?(channel)
              let pipeline = channel.pipeline.syncOperations
              try pipeline.addHTTPClientHandlers()
              try pipeline.addHandler(NIOHTTPClientResponseAggregator(maxContentLength: maximumAnswer))
              try pipeline.addHandler(AnswerHandler(promise))
            }
          }
          .connect(to: try SocketAddress(place)).get()
      } catch {
        promise.fail(error)
        throw error
      }
      var head = HTTPRequestHead(version: .http1_1, method: .GET, uri: path)
      head.headers.add(name: "Host", value: "\(place)")
      head.headers.add(name: "Connection", value: "close")
      channel.write(HTTPClientRequestPart.head(head), promise: nil)
      channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
      let timeout = channel.eventLoop.scheduleTask(in: limit) {
        promise.fail(ChannelError.connectTimeout(limit))
        channel.close(promise: nil)
      }
      defer { timeout.cancel() }
      response = try await promise.futureResult.get()
    } catch {
      throw .unreachable(place, reason: describe(error))
    }
    let body = response.body.map { Array($0.readableBytesView) } ?? []
    guard response.head.status == .ok else {
      throw .refused(
        place, status: Int(response.head.status.code), reason: String(decoding: body.prefix { $0 != 10 }.prefix(512), as: UTF8.self))
    }
    return body
  }

  private final class AnswerHandler: ChannelInboundHandler {
    typealias InboundIn = NIOHTTPClientResponseFull

    private let promise: EventLoopPromise<NIOHTTPClientResponseFull>

    init(_ promise: EventLoopPromise<NIOHTTPClientResponseFull>) { self.promise = promise }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
      promise.succeed(unwrapInboundIn(data))
      context.close(promise: nil)
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
      promise.fail(error)
      context.close(promise: nil)
    }

    func channelInactive(context: ChannelHandlerContext) { promise.fail(ChannelError.eof) }
  }
}

/// Why figures could not be had. Each description is a whole line for a person.
package enum FiguresError: Error, Sendable, Hashable, CustomStringConvertible {
  case unreachable(Endpoint, reason: String)
  case refused(Endpoint, status: Int, reason: String)
  case otherForm(Endpoint)

  package var description: String {
    switch self {
    case .unreachable(let place, let reason): "\(place) gives no figures: \(reason); is that the --metrics of a running accelerator?"
    case .refused(let place, let status, let reason): "\(place) refused (\(status)): \(reason)"
    case .otherForm(let place): "\(place): its answer has another form; is it of another version?"
    }
  }
}
