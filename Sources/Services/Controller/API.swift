import Authentication
import Certificates
import Control
import Hummingbird
import NIOCore
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The controller's HTTP interface: requests become calls of the core, its answers become JSON.
struct API: Sendable {
  /// 256 machines with names of 63 octets are 17 KiB.
  static let maximumRegistration = 64 << 10
  /// A node sends 64 reports at a time, 16 KiB; this is for nodes that have to catch up.
  static let maximumReports = 1 << 20
  /// Connections that wait to be served are refused beyond this: every node has two, people have the rest.
  static let maximumConnections = 2 * NodeRegistry.maximumNodes + 512
  /// A connection without a request for so long is closed; nodes that report every second never get there.
  static let idleLimit = TimeAmount.minutes(5)

  /// The channel comes along, since a stream of events needs it.
  struct Context: RequestContext {
    var coreContext: CoreRequestContextStorage
    let channel: any Channel
    var asker = Asker.keyHolder

    init(source: ApplicationRequestContextSource) {
      coreContext = CoreRequestContextStorage(source: source)
      channel = source.channel
    }
  }

  let core: ControllerCore
  let key: EndpointKey?
  let identity: IdentityKeeper?

  func router() -> Router<Context> {
    let router = Router(context: Context.self)
    router.get("v1/health") { _, _ in try API.json(["status": "ok"]) }
    let api = router.group("v1").add(middleware: AccessMiddleware(key: key, identity: identity))
    api.post("nodes", use: register)
    api.get("nodes/:node/orders", use: orders)
    api.post("nodes/:node/reports", use: reports)
    func read(_ path: RouterPath, _ document: @escaping @Sendable (Request) async throws -> any Encodable) {
      api.get(path) { request, context in
        try context.asker.requireReader()
        return try API.json(await document(request))
      }
    }
    read("nodes") { _ in await core.nodeDocuments() }
    read("status") { _ in await core.status() }
    read("migrations") { _ in await core.migrations() }
    read("paths") { _ in await core.pathDocuments() }
    read("timeline") { request in await core.timeline.entries(since: try API.since(request) ?? .min) }
    api.get("timeline/events", use: follow)
    return router
  }

  // MARK: Nodes

  @Sendable private func register(_ request: Request, _ context: Context) async throws -> Response {
    let description: NodeDescription = try await API.decode(request, "a NodeDescription", upTo: API.maximumRegistration)
    try context.asker.require(node: description.node, role: description.role)
    try await core.register(description)
    return Response(status: .noContent)
  }

  @Sendable private func reports(_ request: Request, _ context: Context) async throws -> Response {
    let node = NodeID(try context.parameters.require("node"))
    try context.asker.require(node: node)
    let reports: [TimedReport] = try await API.decode(request, "an array of TimedReports", upTo: API.maximumReports)
    try await core.receive(reports, from: node)
    return Response(status: .noContent)
  }

  @Sendable private func orders(_ request: Request, _ context: Context) async throws -> Response {
    let node = NodeID(try context.parameters.require("node"))
    try context.asker.require(node: node)
    let stream = EventStream(channel: context.channel)
    try await core.open(stream, for: node)
    return API.response(streaming: stream, to: request) { await core.close(stream, of: node) }
  }

  // MARK: The timeline

  @Sendable private func follow(_ request: Request, _ context: Context) async throws -> Response {
    try context.asker.requireReader()
    let since = try API.since(request)
    let stream = EventStream(channel: context.channel)
    guard await core.follow(stream, since: since) else {
      throw APIError(status: .serviceUnavailable, line: "\(ControllerCore.maximumFollowers) others follow the timeline already")
    }
    return API.response(streaming: stream, to: request) { await core.unfollow(stream) }
  }

  private static func since(_ request: Request) throws(APIError) -> Int64? {
    guard let text = request.uri.queryParameters["since"] else { return nil }
    guard let moment = Int64(text) else {
      throw APIError(status: .badRequest, line: "since: \"\(text)\" is not a number of microseconds since 1970")
    }
    return moment
  }

  // MARK: Requests and responses

  private static func decode<Value: Decodable>(_ request: Request, _ what: String, upTo limit: Int) async throws -> Value {
    let body: ByteBuffer
    do {
      body = try await request.body.collect(upTo: limit)
    } catch is NIOTooManyBytesError {
      throw APIError(status: .contentTooLarge, line: "the body is longer than \(limit) octets")
    }
    do {
      return try JSONDecoder().decode(Value.self, from: Data(body.readableBytesView))
    } catch {
      throw APIError(status: .badRequest, line: "the body is not \(what): \(describe(error))")
    }
  }

  private static func describe(_ error: any Error) -> String {
    guard let error = error as? DecodingError else { return "\(error)" }
    func way(_ context: DecodingError.Context) -> String {
      let path = context.codingPath.map { $0.intValue.map { "[\($0)]" } ?? $0.stringValue }.joined(separator: ".")
      return path.isEmpty ? context.debugDescription : "\(path): \(context.debugDescription)"
    }
    switch error {
    case .keyNotFound(let key, let context): return "\(key.stringValue) is missing (\(way(context)))"
    case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context): return way(context)
    @unknown default: return "\(error)"
    }
  }

  static func json(_ value: some Encodable) throws -> Response {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    let body = ByteBuffer(bytes: try encoder.encode(value))
    return Response(status: .ok, headers: [.contentType: "application/json"], body: ResponseBody(byteBuffer: body))
  }

  /// A refusal is one line for a person: nodes log it, commands print it.
  static func refusal(_ status: HTTPResponse.Status, _ line: String) -> Response {
    Response(
      status: status, headers: [.contentType: "text/plain; charset=utf-8"], body: ResponseBody(byteBuffer: ByteBuffer(string: line + "\n")))
  }

  /// Writes events as they come, each flushed at once, until the reader leaves or the stream ends; `ended` is called in either case.
  private static func response(streaming stream: EventStream, to request: Request, ended: @escaping @Sendable () async -> Void) -> Response
  {
    let body = ResponseBody { writer in
      do {
        try await request.body.consumeWithInboundCloseHandler { _ in
          for await event in stream.events { try await writer.write(event) }
        } onInboundClosed: {
          stream.finish()
        }
      } catch {
        stream.close()
        await ended()
        throw error
      }
      await ended()
      try await writer.finish(nil)
    }
    return Response(
      status: .ok, headers: [.contentType: "text/event-stream", .cacheControl: "no-cache", .connection: "close"], body: body)
  }
}

/// A refusal, with its one line.
struct APIError: Error, HTTPResponseError {
  var status: HTTPResponse.Status
  var line: String

  func response(from request: Request, context: some RequestContext) throws -> Response {
    API.refusal(status, line)
  }
}

extension NodeRefusal: HTTPResponseError {
  var status: HTTPResponse.Status {
    switch self {
    case .badRequest: .badRequest
    case .notRegistered: .notFound
    case .full: .serviceUnavailable
    }
  }

  func response(from request: Request, context: some RequestContext) throws -> Response {
    API.refusal(status, line)
  }
}
