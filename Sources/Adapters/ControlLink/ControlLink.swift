import Certificates
import Control
import Logging
import NIOCore
import NIOHTTP1
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// A node's link to the controller: registers the node, follows the stream of orders, takes reports back; and comes back whenever it is lost.
///
/// It lives on one event loop, where all its methods are called. docs/wire/control.md has the protocol.
package final class ControlLink {
  private enum State {
    case idle
    case waiting(Scheduled<Void>)
    case dialling
    /// `POST /v1/nodes` is under way.
    case registering(ControlConnection, Answer)
    /// `GET .../orders` is under way, on the same connection.
    case subscribing(ControlConnection, Answer)
    case following(ControlConnection, since: NIODeadline)
    case stopped

    var connection: ControlConnection? {
      switch self {
      case .registering(let connection, _), .subscribing(let connection, _), .following(let connection, _): connection
      case .idle, .waiting, .dialling, .stopped: nil
      }
    }
  }

  /// What has come of an answer.
  private struct Answer {
    var status: HTTPResponseStatus?
    var reason = ByteBuffer()
  }

  private let loop: any EventLoop
  private let controller: Endpoint
  private let description: NodeDescription
  private let limits: ControlLinkLimits
  private let logger: Logger
  private let onOrder: (NodeOrder) -> Void
  private let dialler: ControlDialler
  private let sender: ReportSender
  private let decoder = JSONDecoder()
  private var state = State.idle
  private var orders: OrderStream
  /// Grows with each dial, so that the late outcome of one that was given up is told apart.
  private var generation = 0
  private var backoff = Backoff()
  private var random = SystemRandomNumberGenerator()
  private var lastHeard = NIODeadline.now()
  private var watchdog: Scheduled<Void>?
  /// The log tells of the first failure and of the return, not of each try.
  private var isSilentInLog = false
  private var hasLoggedRefusal = false

  package init(
    loop: any EventLoop, controller: Endpoint, description: NodeDescription, credentials: ControlCredentials, sources: [IPAddress],
    logger: Logger,
    limits: ControlLinkLimits = ControlLinkLimits(), onOrder: @escaping (NodeOrder) -> Void
  ) {
    self.loop = loop
    self.controller = controller
    self.description = description
    self.limits = limits
    self.logger = logger
    self.onOrder = onOrder
    orders = OrderStream(maximumOctets: limits.maximumOrderOctets)
    dialler = ControlDialler(
      loop: loop, controller: controller, credentials: credentials, sources: sources, connectLimit: limits.connect)
    sender = ReportSender(
      loop: loop, path: ControlLink.path(of: description.node, "reports"), dialler: dialler, limits: limits, logger: logger)
    sender.onUnknown = { [weak self] in self?.lost("the controller does not know this node any more") }
  }

  package func start() {
    loop.preconditionInEventLoop()
    guard case .idle = state else { return }
    connect()
  }

  /// Tells the controller, now or when the link is back.
  package func report(_ report: NodeReport) {
    loop.preconditionInEventLoop()
    if case .stopped = state { return }
    sender.add(TimedReport(atMicroseconds: WallClock.microsecondsSince1970(), report: report))
  }

  /// Drops what connections there are and dials at once, from this address if one is given: the machine has moved, and the old ones lead nowhere.
  package func reconnect(from source: IPAddress?) {
    loop.preconditionInEventLoop()
    if let source { dialler.prefer(source) }
    switch state {
    case .idle, .stopped: return
    case .waiting, .dialling, .registering, .subscribing, .following: break
    }
    logger.debug("control link: dialling again", metadata: ["source": "\(source.map(\.description) ?? "any")"])
    disconnect()
    backoff.reset()
    connect()
  }

  package func stop() {
    loop.preconditionInEventLoop()
    disconnect()
    state = .stopped
  }
}

// MARK: Connecting

extension ControlLink {
  private func connect() {
    generation += 1
    let mine = generation
    state = .dialling
    dialler.dial { [weak self] result in
      guard let self, self.generation == mine else {
        if case .success((let late, _)) = result { late.drop() }
        return
      }
      switch result {
      case .failure(let failure): self.lost(failure.description)
      case .success((let connection, let source)):
        guard connection.isOpen else { return self.lost("connection closed by the controller") }
        if let source { self.dialler.prefer(source) }
        self.register(on: connection)
      }
    }
  }

  private func register(on connection: ControlConnection) {
    guard let json = try? JSONEncoder().encode(description) else { preconditionFailure("a node's description is always JSON") }
    connection.onEvent = { [weak self, unowned connection] in self?.take($0, from: connection) }
    state = .registering(connection, Answer())
    watch()
    connection.request(.POST, "/v1/nodes", json: Array(json))
  }

  private func subscribe(on connection: ControlConnection) {
    state = .subscribing(connection, Answer())
    watch()
    connection.request(.GET, ControlLink.path(of: description.node, "orders"))
  }

  /// Ends everything that is under way; the caller sets the next state.
  private func disconnect() {
    generation += 1
    watchdog?.cancel()
    watchdog = nil
    if case .waiting(let task) = state { task.cancel() }
    state.connection?.drop()
    sender.close()
  }

  private func lost(_ reason: String) {
    if case .stopped = state { return }
    // A stream that ends as soon as it began must not make us come back at full speed.
    if case .following(_, let since) = state, .now() - since > limits.longestPause { backoff.reset() }
    disconnect()
    logger.log(
      level: isSilentInLog ? .debug : .warning,
      "no link to the controller at \(controller): \(reason); is `longhaul controller` running there? trying again")
    isSilentInLog = true
    wait(backoff.next(limits, using: &random))
  }

  private func refused(_ answer: Answer) {
    guard let status = answer.status, (400..<500).contains(status.code), status.code != 408, status.code != 429 else {
      return lost("it answers \(answer.status.map { "\($0.code)" } ?? "nothing") \(String(buffer: answer.reason))")
    }
    disconnect()
    if status == .unauthorized {
      say("the controller at \(controller) refuses this node's key: the endpoint keys differ; copy one key file to both")
    } else {
      say("the controller at \(controller) refuses to register node \(description.node): \(status.code) \(String(buffer: answer.reason))")
    }
    wait(limits.refusedPause)
  }

  private func say(_ text: String) {
    logger.log(level: hasLoggedRefusal ? .debug : .error, "\(text)")
    hasLoggedRefusal = true
  }

  private func wait(_ pause: TimeAmount) {
    state = .waiting(loop.assumeIsolated().scheduleTask(in: pause) { [weak self] in self?.connect() })
  }

  /// Percent-encoding of a path segment (RFC 3986 section 2.3): a node's name is the operator's choice.
  private static func path(of node: NodeID, _ what: String) -> String {
    let digits = Array("0123456789ABCDEF".utf8)
    let plain = Set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~".utf8)
    let encoded = node.text.utf8.flatMap { plain.contains($0) ? [$0] : [UInt8(ascii: "%"), digits[Int($0 >> 4)], digits[Int($0 & 15)]] }
    return "/v1/nodes/\(String(decoding: encoded, as: UTF8.self))/\(what)"
  }
}

// MARK: Answers and orders

extension ControlLink {
  private func take(_ event: ControlConnection.Event, from connection: ControlConnection) {
    lastHeard = .now()
    if case .closed(let reason) = event { return lost(reason) }
    switch state {
    case .registering(_, var answer):
      guard collect(event, into: &answer) else { return state = .registering(connection, answer) }
      if let status = answer.status, (200..<300).contains(status.code) { subscribe(on: connection) } else { refused(answer) }
    case .subscribing(_, var answer):
      if case .head(let head) = event, head.status == .ok { return follow(head, on: connection) }
      guard collect(event, into: &answer) else { return state = .subscribing(connection, answer) }
      // A controller that has just begun anew may have lost the registration between the two requests: that is no refusal.
      if answer.status == .notFound { lost("it does not know this node any more") } else { refused(answer) }
    case .following:
      switch event {
      case .body(let bytes): receive(bytes, on: connection)
      case .end: lost("it ended the stream of orders")
      case .head, .closed: break
      }
    case .idle, .waiting, .dialling, .stopped: break
    }
  }

  /// True once the answer is whole.
  private func collect(_ event: ControlConnection.Event, into answer: inout Answer) -> Bool {
    switch event {
    case .head(let head): answer.status = head.status
    case .body(var bytes):
      let room = max(limits.maximumReasonOctets - answer.reason.readableBytes, 0)
      if var part = bytes.readSlice(length: min(bytes.readableBytes, room)) { answer.reason.writeBuffer(&part) }
    case .end: return true
    case .closed: break
    }
    return false
  }

  private func follow(_ head: HTTPResponseHead, on connection: ControlConnection) {
    guard head.headers.first(name: "content-type")?.hasPrefix("text/event-stream") == true else {
      return lost("what answers there is no Longhaul controller")
    }
    orders = OrderStream(maximumOctets: limits.maximumOrderOctets)
    state = .following(connection, since: .now())
    watch()
    logger.log(
      level: isSilentInLog || hasLoggedRefusal ? .notice : .info, "linked to the controller at \(controller)",
      metadata: ["source": "\(dialler.sources.first.map(\.description) ?? "any")"])
    isSilentInLog = false
    hasLoggedRefusal = false
    sender.open()
  }

  private func receive(_ bytes: ByteBuffer, on connection: ControlConnection) {
    orders.append(bytes)
    do throws(OrderStream.EventTooLong) {
      // An order may end or replace this very connection; the rest of its octets are nothing to us then.
      while state.connection === connection, let event = try orders.next() { obey(event) }
    } catch {
      lost("it sent an order of more than \(limits.maximumOrderOctets) octets")
    }
  }

  private func obey(_ event: ByteBuffer) {
    let order: NodeOrder
    do {
      order = try decoder.decode(NodeOrder.self, from: Data(event.readableBytesView))
    } catch {
      let start = String(decoding: event.readableBytesView.prefix(limits.maximumReasonOctets), as: UTF8.self)
      return logger.warning("an order of the controller is not understood and ignored; is it of another version? \(start)")
    }
    logger.debug("order", metadata: ["order": "\(order)"])
    onOrder(order)
  }

  /// One timer for the state that has just begun: until the answer, or until the stream has been silent for too long.
  private func watch() {
    watchdog?.cancel()
    lastHeard = .now()
    schedule(lastHeard)
  }

  private var patience: TimeAmount {
    if case .following = state { return limits.silence }
    return limits.answer
  }

  /// The timer is not moved with each octet: when it fires it looks how long the silence has lasted.
  private func schedule(_ heard: NIODeadline) {
    watchdog = loop.assumeIsolated().scheduleTask(deadline: heard + patience) { [weak self] in
      guard let self else { return }
      self.watchdog = nil
      if self.lastHeard > heard { return self.schedule(self.lastHeard) }
      self.dialler.passBy()
      self.lost("it has been silent for \(Double(self.patience.nanoseconds) / 1e9) s")
    }
  }
}
