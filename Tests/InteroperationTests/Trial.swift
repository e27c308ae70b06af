import Carriers
import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

struct TrialError: Error, CustomStringConvertible {
  var description: String
}

/// Our end of a trial: sends messages and wants them back, or sends back what comes. Lives on its loop.
final class Trial {
  /// What is to be told of it at the end.
  struct Report: Sendable {
    var statistics = AssociationStatistics()
    var sent = TrialDigest()
    var received = TrialDigest()
    /// The longest time between two messages that came.
    var gap = TimeSpan.zero
    var events: [String] = []
  }

  let endpoint: SCTPEndpoint
  private(set) var report = Report()
  private(set) var association: AssociationID?
  /// Messages that the peer sends are unordered: what is delivered does not say so itself.
  var receivesUnordered = false
  /// Between two messages; none: as fast as the send buffer takes them.
  var interval: TimeAmount?
  /// False: what is sent does not come back, and what comes is not sent back.
  var echoes = true
  /// When all has come back the association stays, and `more` may be sent.
  var keepsOpen = false
  /// Each message of ours is tried so long or so often.
  var reliability: () -> Reliability = { .full }
  private var waits: [(isOver: (Effect) -> Bool, promise: EventLoopPromise<Void>)] = []
  private var toSend: [TrialMessage] = []
  private var sent = 0
  private var awaited: [UInt16: [TrialMessage]] = [:]
  private var left = 0
  private var waiting: [(StreamID, UInt32, ByteBuffer)] = []
  private var returned = 0
  private var lastCame: Instant?
  private let done: EventLoopPromise<Void>

  static func configuration(key: [UInt8]?, keyIdentifier: UInt16 = 0, port: UInt16, peerPort: UInt16) -> AssociationConfiguration {
    var configuration = AssociationConfiguration(endpointKey: key ?? [])
    configuration.endpointKeyIdentifier = keyIdentifier
    configuration.port = port
    configuration.peerPort = peerPort
    configuration.features.isRequired = false
    configuration.features.authentication = key != nil
    configuration.features.offersSHA1 = true
    configuration.paths.minimumRTO = .milliseconds(200 as Int64)
    configuration.paths.initialRTO = .milliseconds(500 as Int64)
    configuration.paths.associationRetransmissions = 40
    configuration.paths.pathRetransmissions = 20
    return configuration
  }

  init(_ configuration: AssociationConfiguration, isListening: Bool, loop: any EventLoop) {
    endpoint = SCTPEndpoint(configuration: configuration, mtu: DatagramCarrier.standardMTU, isListening: isListening, loop: loop)
    done = loop.makePromise()
    endpoint.onEvent = { [unowned self] in take($1, of: $0) }
    endpoint.onAccepted = { [unowned self] id, _ in association = id }
    loop.assumeIsolated().scheduleTask(in: .seconds(55)) { [weak self] in self?.fail("the trial took longer than its limit") }
  }

  var result: EventLoopFuture<Void> { done.futureResult }

  /// Sends all and succeeds when all has come back and the association has been shut down.
  func run(_ messages: [TrialMessage], from local: IPAddress, to remote: Endpoint) {
    toSend = messages
    left = messages.count
    for message in messages { awaited[message.stream, default: []].append(message) }
    association = endpoint.connect(from: local, to: remote)
  }

  func more(_ messages: [TrialMessage]) {
    toSend += messages
    left += messages.count
    for message in messages { awaited[message.stream, default: []].append(message) }
    if let association { push(association) }
  }

  /// Succeeds when it has been asked about an event that is the one.
  func wait(for what: String, _ isOver: @escaping (Effect) -> Bool) -> EventLoopFuture<Void> {
    let promise = endpoint.loop.makePromise(of: Void.self)
    endpoint.loop.assumeIsolated().scheduleTask(in: .seconds(50)) { promise.fail(TrialError(description: "\(what): waited for in vain")) }
    waits.append((isOver, promise))
    return promise.futureResult
  }

  /// Succeeds when so many messages have come.
  func wait(forMessages count: Int) -> EventLoopFuture<Void> {
    var left = count
    return wait(for: "\(count) messages") {
      if case .deliver = $0 { left -= 1 }
      return left == 0
    }
  }

  private func fail(_ what: String) { done.fail(TrialError(description: what)) }

  private func take(_ event: Effect, of id: AssociationID) {
    if let association = endpoint.association(id) { report.statistics = association.statistics }
    if case .deliver = event {} else { report.events.append("\(event)") }
    waits.removeAll { wait in
      guard wait.isOver(event) else { return false }
      wait.promise.succeed()
      return true
    }
    switch event {
    case .established: push(id)
    case .sendSpace:
      push(id)
      sendBack(id)
    case .deliver(let stream, let identifier, let payload):
      let now = SessionDriver.now()
      report.gap = max(report.gap, lastCame.map { now - $0 } ?? .zero)
      lastCame = now
      report.received.add(stream.value, isUnordered: receivesUnordered, identifier, payload)
      if !echoes { return }
      if toSend.isEmpty {
        waiting.append((stream, identifier, payload))
        sendBack(id)
      } else {
        check(stream.value, payload, id)
      }
    case .streamsReset(.incoming, let streams): for stream in streams { report.received.reset(stream.value) }
    case .streamsReset(.outgoing, let streams): for stream in streams { report.sent.reset(stream.value) }
    case .closed: done.succeed()
    case .failed(let error): fail("\(error)")
    default: break
    }
  }

  private func push(_ id: AssociationID) {
    while sent < toSend.count {
      let message = toSend[sent]
      let payload = message.payload
      guard
        endpoint.send(
          payload, stream: StreamID(message.stream), protocolIdentifier: 7, isUnordered: message.isUnordered, reliability: reliability(),
          endOfWrite: interval != nil || sent + 1 == toSend.count, on: id)
      else { return }
      report.sent.add(message.stream, isUnordered: message.isUnordered, 7, payload)
      sent += 1
      guard let interval else { continue }
      endpoint.loop.assumeIsolated().scheduleTask(in: interval) { [weak self] in self?.push(id) }
      return
    }
    if !echoes, !toSend.isEmpty { endpoint.shutdown(id) }
  }

  private func sendBack(_ id: AssociationID) {
    while returned < waiting.count {
      let (stream, identifier, payload) = waiting[returned]
      guard
        endpoint.send(
          payload, stream: stream, protocolIdentifier: identifier, isUnordered: false, reliability: .full, endOfWrite: true, on: id)
      else {
        return
      }
      report.sent.add(stream.value, isUnordered: false, identifier, payload)
      returned += 1
    }
    waiting.removeAll(keepingCapacity: true)
    returned = 0
  }

  private func check(_ stream: UInt16, _ payload: ByteBuffer, _ id: AssociationID) {
    let candidates = awaited[stream] ?? []
    guard let index = candidates.firstIndex(where: { !$0.isUnordered || $0.payload == payload }), candidates[index].payload == payload
    else {
      return fail("\(payload.readableBytes) octets on stream \(stream) are not what was sent")
    }
    awaited[stream]?.remove(at: index)
    left -= 1
    if left == 0, !keepsOpen { endpoint.shutdown(id) }
  }
}
