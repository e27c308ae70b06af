import Control
import Logging
import NIOCore
import NIOHTTP1

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Takes reports to the controller, on a connection of its own so that no order waits behind one. One request is under way at a time; what
/// comes up meanwhile goes in the next. Each report arrives at least once: a batch whose answer got lost is sent again.
final class ReportSender {
  private enum State {
    /// The node is not registered: reports wait.
    case closed
    case ready
    case pausing(Scheduled<Void>)
    case dialling
    case sending([TimedReport], timeout: Scheduled<Void>, status: HTTPResponseStatus?, reason: ByteBuffer)
  }

  /// The controller answers that it does not know this node, or its key: the link has to register again.
  var onUnknown: (() -> Void)?
  private let loop: any EventLoop
  private let path: String
  private let dialler: ControlDialler
  private let limits: ControlLinkLimits
  private let logger: Logger
  private let encoder = JSONEncoder()
  private var queue: ReportQueue
  private var state = State.closed
  private var connection: ControlConnection?
  /// Grows whenever what is under way is given up, so that its late outcome is told apart.
  private var generation = 0
  private var backoff = Backoff()
  private var random = SystemRandomNumberGenerator()
  /// The batch at the queue's head was answered with "unknown node" once already.
  private var wasUnknown = false
  private var hasLoggedRefusal = false
  private var hasLoggedDrop = false

  init(loop: any EventLoop, path: String, dialler: ControlDialler, limits: ControlLinkLimits, logger: Logger) {
    self.loop = loop
    self.path = path
    self.dialler = dialler
    self.limits = limits
    self.logger = logger
    queue = ReportQueue(maximum: limits.maximumReports)
  }

  func add(_ report: TimedReport) {
    queue.add(report)
    if queue.dropped > 0, !hasLoggedDrop {
      hasLoggedDrop = true
      logger.warning("more than \(limits.maximumReports) reports wait for the controller: the oldest measurements are dropped")
    }
    send()
  }

  /// The node is registered.
  func open() {
    guard case .closed = state else { return }
    state = .ready
    send()
  }

  /// The link is lost: what is under way goes back into the queue.
  func close() {
    generation += 1
    connection?.drop()
    connection = nil
    switch state {
    case .closed, .ready, .dialling: break
    case .pausing(let task): task.cancel()
    case .sending(let batch, let timeout, _, _):
      timeout.cancel()
      queue.putBack(batch)
    }
    state = .closed
  }
}

// MARK: Sending

extension ReportSender {
  private func send() {
    guard case .ready = state, !queue.isEmpty else { return }
    guard let connection, connection.isOpen else { return dial() }
    let batch = queue.takeBatch(limits.reportsPerRequest)
    guard let json = try? encoder.encode(batch) else {
      // A number that JSON has no word for (a NaN) is our own mistake, and must not stop the others.
      logger.error("\(batch.count) reports cannot be written as JSON and are dropped")
      return send()
    }
    let timeout = loop.assumeIsolated().scheduleTask(in: limits.answer) { [weak self] in
      guard let self else { return }
      self.failed("no answer within \(Double(self.limits.answer.nanoseconds) / 1e9) s")
    }
    state = .sending(batch, timeout: timeout, status: nil, reason: ByteBuffer())
    connection.request(.POST, path, json: Array(json))
  }

  private func dial() {
    state = .dialling
    let mine = generation
    dialler.dial { [weak self] result in
      guard let self, self.generation == mine else {
        if case .success((let late, _)) = result { late.drop() }
        return
      }
      switch result {
      case .failure(let failure): self.failed(failure.description)
      case .success((let connection, _)):
        connection.onEvent = { [weak self] in self?.take($0) }
        self.connection = connection
        self.state = .ready
        self.send()
      }
    }
  }

  private func take(_ event: ControlConnection.Event) {
    guard case .sending(let batch, let timeout, let status, var reason) = state else {
      if case .closed = event { connection = nil }  // an idle connection that the controller ended
      return
    }
    switch event {
    case .head(let head): state = .sending(batch, timeout: timeout, status: head.status, reason: reason)
    case .body(var bytes):
      reason.writeBytes(bytes.readBytes(length: min(bytes.readableBytes, limits.maximumReasonOctets - reason.readableBytes)) ?? [])
      state = .sending(batch, timeout: timeout, status: status, reason: reason)
    case .end:
      timeout.cancel()
      state = .ready
      answered(status ?? .internalServerError, String(buffer: reason), batch)
    case .closed(let why):
      connection = nil
      failed(why)
    }
  }

  private func answered(_ status: HTTPResponseStatus, _ reason: String, _ batch: [TimedReport]) {
    switch status.code {
    case 200..<300:
      backoff.reset()
      wasUnknown = false
      send()
    case 401 where !wasUnknown, 404 where !wasUnknown:
      wasUnknown = true
      queue.putBack(batch)
      onUnknown?()
    case 408, 429, 500...:
      queue.putBack(batch)
      failed("\(status.code) \(reason)")
    default:
      // It would be refused again: dropped, and said once.
      logger.log(
        level: hasLoggedRefusal ? .debug : .warning, "the controller refuses \(batch.count) reports with \(status.code) \(reason): dropped")
      hasLoggedRefusal = true
      wasUnknown = false
      send()
    }
  }

  /// Tries again after a pause, on a new connection.
  private func failed(_ reason: String) {
    if case .sending(let batch, let timeout, _, _) = state {
      timeout.cancel()
      queue.putBack(batch)
    }
    generation += 1
    connection?.drop()
    connection = nil
    let pause = backoff.next(limits, using: &random)
    logger.debug("reports not delivered: \(reason); trying again", metadata: ["reports": "\(queue.count)"])
    state = .pausing(
      loop.assumeIsolated().scheduleTask(in: pause) { [weak self] in
        guard let self else { return }
        self.state = .ready
        self.send()
      })
  }
}
