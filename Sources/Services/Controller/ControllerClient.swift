import Certificates
import NIOCore
import NIOHTTP1
import NIOPosix
import Sockets
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The other side of the API, for commands and tests: one connection a request.
package struct ControllerClient: Sendable {
  /// For the connection, and from the request to the answer's head. A controller that is 300 ms away answers within a second.
  package static let limit = TimeSpan.seconds(10 as Int64)
  /// The longest answer: a timeline of 4,096 lines of 1,000 octets.
  static let maximumAnswer = 8 << 20
  /// Of a refusal's line.
  static let maximumReason = 512
  /// Parts of a stream that wait for their reader, who is a person's terminal.
  static let maximumWaiting = 1_024

  package struct Answer: Sendable {
    package var status: Int
    package var body: [UInt8]
  }

  package let controller: Endpoint
  package let credentials: ControlCredentials

  package init(controller: Endpoint, credentials: ControlCredentials) {
    self.controller = controller
    self.credentials = credentials
  }

  /// One request and its answer, whatever its status.
  package func request(_ method: HTTPMethod, _ path: String, body: [UInt8]? = nil) async throws -> Answer {
    var status = 0
    var octets: [UInt8] = []
    for try await part in try await parts(method, path, body: body) {
      switch part {
      case .head(let head): status = Int(head.status.code)
      case .body(let buffer):
        octets.append(contentsOf: buffer.readableBytesView)
        guard octets.count <= ControllerClient.maximumAnswer else {
          throw ControllerClientError.broken(controller, reason: "an answer without end")
        }
      case .end: return Answer(status: status, body: octets)
      }
    }
    throw ControllerClientError.broken(controller, reason: "the connection was closed before the answer's end")
  }

  /// What `GET path` says.
  package func get<Value: Decodable>(_ path: String, as type: Value.Type = Value.self) async throws -> Value {
    let answer = try await request(.GET, path)
    try check(answer.status, answer.body)
    do {
      return try JSONDecoder().decode(Value.self, from: Data(answer.body))
    } catch {
      throw ControllerClientError.broken(controller, reason: "its answer to \(path) has another form; is it of another version?")
    }
  }

  /// The `data` lines of a stream of events, until it ends or its reader's task is cancelled.
  package func events(_ path: String) async throws -> AsyncThrowingStream<String, any Error> {
    let parts = try await parts(.GET, path, body: nil)
    var iterator = parts.makeAsyncIterator()
    guard case .head(let head) = try await iterator.next() else {
      throw ControllerClientError.broken(controller, reason: "the connection was closed before an answer")
    }
    if head.status != .ok {
      var body: [UInt8] = []
      while case .body(let buffer) = try await iterator.next(), body.count < 4_096 { body.append(contentsOf: buffer.readableBytesView) }
      try check(Int(head.status.code), body)
    }
    return AsyncThrowingStream { continuation in
      let task = Task {
        var lines = EventLines()
        do {
          for try await part in parts {
            guard case .body(let buffer) = part else { break }
            for line in lines.take(buffer) { continuation.yield(line) }
          }
          continuation.finish()
        } catch {
          continuation.finish(throwing: error)
        }
      }
      continuation.onTermination = { _ in task.cancel() }
    }
  }

  private func check(_ status: Int, _ body: [UInt8]) throws(ControllerClientError) {
    guard !(200..<300).contains(status) else { return }
    let line = String(decoding: body.prefix { $0 != UInt8(ascii: "\n") }.prefix(ControllerClient.maximumReason), as: UTF8.self)
    throw .refused(controller, status: status, reason: line.isEmpty ? "no reason given" : line)
  }

  // MARK: The connection

  private func parts(
    _ method: HTTPMethod, _ path: String, body: [UInt8]?
  ) async throws -> AsyncThrowingStream<HTTPClientResponsePart, any Error> {
    let (parts, sink) = AsyncThrowingStream.makeStream(
      of: HTTPClientResponsePart.self, bufferingPolicy: .bufferingOldest(ControllerClient.maximumWaiting))
    let controller = self.controller
    let limit = TimeAmount.nanoseconds(ControllerClient.limit.nanoseconds)
    let credentials = self.credentials
    let channel: any Channel
    do {
      channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .connectTimeout(limit)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try credentials.secure(channel.pipeline.syncOperations)
            try channel.pipeline.syncOperations.addHTTPClientHandlers()
            try channel.pipeline.syncOperations.addHandler(AnswerHandler(controller: controller, limit: limit, sink: sink))
          }
        }.connect(host: "\(controller.address)", port: Int(controller.port)).get()
    } catch {
      throw ControllerClientError.unreachable(controller, reason: describe(error))
    }
    sink.onTermination = { _ in channel.close(promise: nil) }
    var head = HTTPRequestHead(version: .http1_1, method: method, uri: path)
    head.headers.add(name: "Host", value: "\(controller)")
    if let authorization = credentials.authorization { head.headers.add(name: "Authorization", value: authorization) }
    head.headers.add(name: "Connection", value: "close")
    if let body {
      head.headers.add(name: "Content-Type", value: "application/json")
      head.headers.add(name: "Content-Length", value: "\(body.count)")
    }
    channel.write(HTTPClientRequestPart.head(head), promise: nil)
    if let body { channel.write(HTTPClientRequestPart.body(.byteBuffer(ByteBuffer(bytes: body))), promise: nil) }
    channel.writeAndFlush(HTTPClientRequestPart.end(nil), promise: nil)
    return parts
  }
}

/// What can go wrong between a command and the controller. Each description is a whole line for a person.
package enum ControllerClientError: Error, Sendable, Hashable, CustomStringConvertible {
  case unreachable(Endpoint, reason: String)
  case refused(Endpoint, status: Int, reason: String)
  case broken(Endpoint, reason: String)

  package var description: String {
    switch self {
    case .unreachable(let endpoint, let reason):
      "controller \(endpoint) cannot be reached: \(reason); is `longhaul controller` running there?"
    case .refused(let endpoint, let status, let reason): "controller \(endpoint) refused (\(status)): \(reason)"
    case .broken(let endpoint, let reason): "controller \(endpoint): \(reason)"
    }
  }
}

/// Cuts a stream of events into the values of its `data` lines; each event has one, since that is how the controller writes them.
struct EventLines {
  /// An order is below 16 KiB; what grows beyond this is no event of ours and is dropped.
  static let maximumLine = 256 << 10
  private var rest: [UInt8] = []

  mutating func take(_ buffer: ByteBuffer) -> [String] {
    rest.append(contentsOf: buffer.readableBytesView)
    var found: [String] = []
    while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
      let line = rest[..<end]
      if line.starts(with: Array("data: ".utf8)) { found.append(String(decoding: line.dropFirst(6), as: UTF8.self)) }
      rest.removeSubrange(...end)
    }
    if rest.count > EventLines.maximumLine { rest = [] }
    return found
  }
}

/// Hands the parts of one answer to its reader.
private final class AnswerHandler: ChannelInboundHandler {
  typealias InboundIn = HTTPClientResponsePart

  private let controller: Endpoint
  private let limit: TimeAmount
  private let sink: AsyncThrowingStream<HTTPClientResponsePart, any Error>.Continuation
  private var timer: Scheduled<Void>?

  init(controller: Endpoint, limit: TimeAmount, sink: AsyncThrowingStream<HTTPClientResponsePart, any Error>.Continuation) {
    self.controller = controller
    self.limit = limit
    self.sink = sink
  }

  func channelActive(context: ChannelHandlerContext) {
    let channel = context.channel
    let error = ControllerClientError.unreachable(controller, reason: "no answer within \(limit.nanoseconds / 1_000_000_000) s")
    timer = context.eventLoop.scheduleTask(in: limit) { [sink] in
      sink.finish(throwing: error)
      channel.close(promise: nil)
    }
    context.fireChannelActive()
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    timer?.cancel()
    if case .dropped = sink.yield(unwrapInboundIn(data)) { fail("its reader is too slow", context: context) }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if let refusal = error as? CertificateError { return fail("\(refusal)", context: context) }
    if case .some(.invalidEOFState) = error as? HTTPParserError { return fail("it closed the connection", context: context) }
    fail("what answers is no HTTP server: \(error)", context: context)
  }

  private func fail(_ reason: String, context: ChannelHandlerContext) {
    sink.finish(throwing: ControllerClientError.broken(controller, reason: reason))
    context.close(promise: nil)
  }

  func channelInactive(context: ChannelHandlerContext) {
    timer?.cancel()
    sink.finish()
    context.fireChannelInactive()
  }
}
