import NIOCore
import NIOPosix
import Vocabulary

/// An event that a hypervisor sent by itself, or its answer to a command that was given with `inquire`.
package struct QMPEvent: Sendable, Hashable {
  /// What came of an inquiry.
  package enum Answer: Sendable, Hashable {
    case success(JSON)
    case failure(QMPError)
  }

  package var name: String
  /// `.null` if the event has none.
  package var data: JSON
  /// QEMU's own wall clock, microseconds since 1970; nil if it could not tell (it sends -1 then).
  package var atMicroseconds: Int64?
  /// Nil for what the hypervisor sent by itself; the command's name is in `name` otherwise.
  package var answer: Answer?

  package init(name: String, data: JSON = .null, atMicroseconds: Int64? = nil) {
    self.name = name
    self.data = data
    self.atMicroseconds = atMicroseconds
  }
}

/// One connection to a QMP server (QEMU Machine Protocol: a JSON object a line), with the negotiation behind it.
///
/// It lives on one event loop; its face is asynchronous. A connection that was closed stays closed: `HypervisorWatcher`s make new ones.
package final class QMPConnection: Sendable {
  /// The longest answer of QEMU 7.2 is `query-qmp-schema` with 220 KiB; a line of this length is no answer to anything that we ask.
  package static let maximumLine = 4 << 20
  /// Commands without an answer. QEMU works them off in order, so that more would only wait.
  package static let maximumPending = 64
  /// Events that wait for their reader. A migration makes about ten; when this many wait nobody reads, and the connection is closed,
  /// because a reader that misses an event would judge wrongly.
  package static let maximumEvents = 4_096
  /// An idle QEMU answers within a millisecond; one whose main loop is in the last round of a migration, within the downtime.
  package static let defaultLimit = TimeSpan.seconds(10 as Int64)

  package let address: QMPAddress
  /// `QMP.version` of the greeting, for instance `{"qemu": {"major": 7, ...}, "package": "Debian ..."}`.
  package let version: JSON
  /// What the hypervisor says by itself, for one reader. It ends when the connection does.
  package let events: AsyncStream<QMPEvent>
  /// Succeeds with the reason when the connection is gone.
  package let closing: EventLoopFuture<String>
  private let channel: any Channel
  private let handler: NIOLoopBound<QMPHandler>

  private init(
    address: QMPAddress, version: JSON, events: AsyncStream<QMPEvent>, closing: EventLoopFuture<String>, channel: any Channel,
    handler: NIOLoopBound<QMPHandler>
  ) {
    self.address = address
    self.version = version
    self.events = events
    self.closing = closing
    self.channel = channel
    self.handler = handler
  }

  /// Connects, reads the greeting and leaves the negotiation mode (`qmp_capabilities`). QEMU serves one client a socket: while another
  /// has it, this waits for the greeting until `limit` and fails with `.unreachable`.
  package static func connect(
    to address: QMPAddress, on loop: any EventLoop = MultiThreadedEventLoopGroup.singleton.next(),
    limit: TimeSpan = QMPConnection.defaultLimit
  ) async throws(QMPError) -> QMPConnection {
    let (events, sink) = AsyncStream.makeStream(of: QMPEvent.self, bufferingPolicy: .bufferingOldest(maximumEvents))
    let greeting = loop.makePromise(of: JSON.self)
    let closing = loop.makePromise(of: String.self)
    let timer = loop.scheduleTask(in: .nanoseconds(limit.nanoseconds)) {
      greeting.fail(QMPError.unreachable(address, reason: "no greeting within \(limit.seconds) s; does another client hold its socket?"))
    }
    defer { timer.cancel() }
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(.nanoseconds(limit.nanoseconds))
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let handler = QMPHandler(address: address, greeting: greeting, closing: closing, events: sink)
          try channel.pipeline.syncOperations.addHandler(handler)
        }
      }
    let channel: any Channel
    do {
      switch address {
      case .unix(let path): channel = try await bootstrap.connect(unixDomainSocketPath: path).get()
      case .tcp(let endpoint): channel = try await bootstrap.connect(host: "\(endpoint.address)", port: Int(endpoint.port)).get()
      }
    } catch {
      let reason = QMPError(connecting: address, error)
      greeting.fail(reason)
      closing.succeed(reason.description)
      throw reason
    }
    do {
      let version = try await greeting.futureResult.get()["version"] ?? .null
      let handler = try await channel.eventLoop.submit {
        NIOLoopBound(try channel.pipeline.syncOperations.handler(type: QMPHandler.self), eventLoop: channel.eventLoop)
      }.get()
      let connection = QMPConnection(
        address: address, version: version, events: events, closing: closing.futureResult, channel: channel, handler: handler)
      try await connection.execute("qmp_capabilities", limit: limit)
      return connection
    } catch {
      channel.close(promise: nil)
      throw error as? QMPError ?? .closed(address, reason: "\(error)")
    }
  }

  /// Sends a command and waits for its answer, `{}` as a rule for those that only do something.
  @discardableResult
  package func execute(
    _ command: String, _ arguments: JSON = .null, limit: TimeSpan = QMPConnection.defaultLimit
  ) async throws(QMPError) -> JSON {
    let promise = channel.eventLoop.makePromise(of: JSON.self)
    let handler = self.handler
    channel.eventLoop.execute { handler.value.send(command, arguments, limit: limit, promise: promise) }
    do {
      return try await promise.futureResult.get()
    } catch {
      throw error as? QMPError ?? .closed(address, reason: "\(error)")
    }
  }

  /// Sends a command whose answer comes among the `events`, in its place: behind all that the hypervisor sent before it. Exactly one answer comes,
  /// unless the connection ends first.
  package func inquire(_ command: String, limit: TimeSpan = QMPConnection.defaultLimit) {
    let handler = self.handler
    channel.eventLoop.execute { handler.value.inquire(command, limit: limit, on: handler.eventLoop) }
  }

  /// Closes the connection; unanswered commands fail with `.closed`. Closing again does nothing.
  package func close() { channel.close(promise: nil) }
}

extension QMPError {
  /// What the failure of a connect means. A missing or unattended socket is the everyday case of a hypervisor that does not run.
  fileprivate init(connecting address: QMPAddress, _ error: any Error) {
    var cause = error
    if let error = error as? NIOConnectionError, let first = error.connectionErrors.first { cause = first.error }
    guard let failure = cause as? IOError else {
      self = .unreachable(address, reason: "\(cause)")
      return
    }
    let reason = String(describing: failure)
    switch failure.errnoCode {
    case ENOENT: self = .absent(address, reason: "there is no such socket")
    case ECONNREFUSED: self = .absent(address, reason: "the connection was refused")
    case EACCES: self = .unreachable(address, reason: "permission denied")
    default: self = .unreachable(address, reason: reason)
    }
  }
}

/// Lines to answers and events, on the connection's loop.
private final class QMPHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private struct Waiting {
    var command: String
    var promise: EventLoopPromise<JSON>
    var timer: Scheduled<Void>
  }

  private let address: QMPAddress
  private let greeting: EventLoopPromise<JSON>
  private let closing: EventLoopPromise<String>
  private let events: AsyncStream<QMPEvent>.Continuation
  private var context: ChannelHandlerContext?
  private var received = ByteBuffer()
  /// Octets at the head of `received` that hold no line's end, so that a long line is not searched from its start again.
  private var searched = 0
  private var waiting: [Int64: Waiting] = [:]
  private var lastID: Int64 = 0
  private var hasGreeted = false
  private var reason = "the hypervisor closed it"

  init(
    address: QMPAddress, greeting: EventLoopPromise<JSON>, closing: EventLoopPromise<String>, events: AsyncStream<QMPEvent>.Continuation
  ) {
    self.address = address
    self.greeting = greeting
    self.closing = closing
    self.events = events
  }

  func handlerAdded(context: ChannelHandlerContext) { self.context = context }
  func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

  func send(_ command: String, _ arguments: JSON, limit: TimeSpan, promise: EventLoopPromise<JSON>) {
    guard let context, context.channel.isActive else { return promise.fail(QMPError.closed(address, reason: reason)) }
    guard waiting.count < QMPConnection.maximumPending else { return promise.fail(QMPError.busy(command: command)) }
    lastID += 1
    let id = lastID
    var message: [String: JSON] = ["execute": .string(command), "id": .integer(id)]
    if arguments != .null { message["arguments"] = arguments }
    let bound = NIOLoopBound(self, eventLoop: context.eventLoop)
    let timer = context.eventLoop.scheduleTask(in: .nanoseconds(limit.nanoseconds)) { () -> Void in
      bound.value.waiting.removeValue(forKey: id)?.promise.fail(QMPError.late(command: command, limit: limit))
    }
    waiting[id] = Waiting(command: command, promise: promise, timer: timer)
    context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: JSON.object(message).line + "\n")), promise: nil)
  }

  func inquire(_ command: String, limit: TimeSpan, on loop: any EventLoop) {
    let promise = loop.makePromise(of: JSON.self)
    // The promise is completed on this loop while the answer's line is taken, so the answer enters the stream in its place.
    promise.futureResult.assumeIsolated().whenComplete { [events] result in
      var event = QMPEvent(name: command)
      switch result {
      case .success(let value): event.answer = .success(value)
      case .failure(let error):
        event.answer = .failure(error as? QMPError ?? .refused(command: command, kind: "no class", reason: "\(error)"))
      }
      events.yield(event)
    }
    send(command, .null, limit: limit, promise: promise)
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var incoming = unwrapInboundIn(data)
    received.writeBuffer(&incoming)
    while let end = received.readableBytesView.dropFirst(searched).firstIndex(of: UInt8(ascii: "\n")) {
      let line = received.readSlice(length: end - received.readerIndex) ?? ByteBuffer()
      received.moveReaderIndex(forwardBy: 1)
      searched = 0
      take(line.readableBytesView, context: context)
    }
    searched = received.readableBytes
    received.discardReadBytes()
    if searched > QMPConnection.maximumLine { give(up: "a line of more than \(QMPConnection.maximumLine) octets", context: context) }
  }

  private func take(_ line: ByteBufferView, context: ChannelHandlerContext) {
    guard !line.allSatisfy({ $0 == UInt8(ascii: "\r") || $0 == UInt8(ascii: " ") }) else { return }
    guard let message = JSON(octets: line), case .object = message else {
      return give(up: "a line that is no JSON object", context: context)
    }
    if let name = message["event"]?.text {
      yield(QMPEvent(name: name, data: message["data"] ?? .null, atMicroseconds: Self.time(of: message)), context: context)
    } else if let greeting = message["QMP"] {
      hasGreeted = true
      self.greeting.succeed(greeting)
    } else if let id = message["id"]?.int, let waiting = waiting.removeValue(forKey: id) {
      waiting.timer.cancel()
      waiting.promise.completeWith(Self.answer(message, to: waiting.command))
    }
    // Anything else answers a command that has been given up.
  }

  private static func answer(_ message: JSON, to command: String) -> Result<JSON, any Error> {
    if let value = message["return"] { return .success(value) }
    let error = message["error"]
    return .failure(
      QMPError.refused(command: command, kind: error?["class"]?.text ?? "no class", reason: error?["desc"]?.text ?? "no reason given"))
  }

  private static func time(of message: JSON) -> Int64? {
    // Seconds beyond the year 9999 are no time, and would not fit when counted in microseconds.
    guard let stamp = message["timestamp"], let seconds = stamp["seconds"]?.int, (0...253_402_300_799).contains(seconds),
      let micros = stamp["microseconds"]?.int, (0..<1_000_000).contains(micros)
    else {
      return nil
    }
    return seconds * 1_000_000 + micros
  }

  private func yield(_ event: QMPEvent, context: ChannelHandlerContext) {
    if case .dropped = events.yield(event) { give(up: "\(QMPConnection.maximumEvents) events wait for a reader", context: context) }
  }

  private func give(up reason: String, context: ChannelHandlerContext) {
    self.reason = reason
    context.close(promise: nil)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) { give(up: "\(error)", context: context) }

  func channelInactive(context: ChannelHandlerContext) {
    // A hypervisor greets first; what closes without a greeting, or with one that cannot be read, is something else.
    greeting.fail(hasGreeted ? QMPError.closed(address, reason: reason) : QMPError.notQMP(address, reason: reason))
    closing.succeed(reason)
    events.finish()
    let left = waiting.sorted { $0.key < $1.key }
    waiting = [:]
    for (_, entry) in left {
      entry.timer.cancel()
      entry.promise.fail(QMPError.closed(address, reason: reason))
    }
    context.fireChannelInactive()
  }
}
