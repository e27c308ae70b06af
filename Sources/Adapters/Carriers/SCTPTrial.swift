import NIOCore
import SCTP
import Vocabulary

/// One role of a trial, on a transport and its event loop.
package final class SCTPTrial {
  let settings: SCTPTrialSettings
  let transport: any MessageTransport
  private let loop: any EventLoop
  let say: (SCTPTrialLine) -> Void
  private let done: EventLoopPromise<Void>
  private(set) var counts: [AssociationID: Count] = [:]
  private var waiting: [(id: AssociationID, stream: StreamID, identifier: UInt32, payload: ByteBuffer)] = []
  private var sent = 0
  private var sendingBegan = Instant(nanoseconds: 0)
  private var returned = 0
  /// Of messages that were given up nobody waits for the return.
  private var abandoned = 0
  private var nextOnStream: [UInt16: Int] = [:]
  private var hasPlanned = false
  /// A round trip a second is enough to read, for each association.
  private var nextRoundTrip: [AssociationID: Instant] = [:]

  struct Count {
    var messages = 0
    var octets = 0
    var began = SessionDriver.now()
    var lastCame: Instant?
    var longestPause = TimeSpan.zero
  }

  /// - Parameter say: takes each line to be printed.
  package init(
    _ settings: SCTPTrialSettings, _ transport: any MessageTransport, loop: any EventLoop, say: @escaping (SCTPTrialLine) -> Void
  ) {
    self.settings = settings
    self.transport = transport
    self.loop = loop
    self.say = say
    done = loop.makePromise()
    transport.onEvent = { [unowned self] in take($1, of: $0) }
    transport.onAccepted = { [unowned self] id, remote in
      counts[id] = Count()
      tell(SCTPTrialLine("accepted", "accepted from \(remote)", [("remote", .text(remote))]), id)
    }
    transport.onTrouble = { say(SCTPTrialLine("trouble", $0, [("reason", .text($0))])) }
  }

  /// Succeeds when the role has done its work; fails with a line for a person.
  package var result: EventLoopFuture<Void> { done.futureResult }

  /// The active roles' association, as soon as it is on its way.
  package func begin(_ id: AssociationID) { if counts[id] == nil { counts[id] = Count() } }

  package func stop() { done.succeed() }

  func tell(_ line: SCTPTrialLine, _ id: AssociationID? = nil) {
    var line = line
    line.association = id
    say(line)
  }

  private func fail(_ what: String) { done.fail(SCTPTrialError(description: what)) }

  private func take(_ event: Effect, of id: AssociationID) {
    if let line = SCTPTrialLine(event), isWorthTelling(event, id) { tell(line, id) }
    switch event {
    case .established:
      counts[id, default: Count()].began = SessionDriver.now()
      sendingBegan = SessionDriver.now()
      carryOutPlan()
      push(id)
    case .sendSpace:
      sendBack()
      push(id)
    case .abandoned:
      abandoned += 1
      finishClient(id)
    case .deliver(let stream, let identifier, let payload): receive(payload, stream, identifier, id)
    case .streamsReset(.outgoing, _): push(id)
    case .closed: end(id)
    case .failed(let error):
      counts[id] = nil
      nextRoundTrip[id] = nil
      if !settings.role.isPassive || settings.isOnce { fail("the association failed: \(error)") }
    default: break
    }
  }

  private func isWorthTelling(_ event: Effect, _ id: AssociationID) -> Bool {
    guard case .roundTrip = event else { return true }
    let now = SessionDriver.now()
    if let next = nextRoundTrip[id], now < next { return false }
    nextRoundTrip[id] = now + .seconds(1 as Int64)
    return true
  }

  private func carryOutPlan() {
    guard !hasPlanned else { return }
    hasPlanned = true
    let bound = NIOLoopBound(self, eventLoop: loop)
    for (after, command) in settings.plan {
      loop.scheduleTask(in: .nanoseconds(after.nanoseconds)) { bound.value.carryOut(command) }
    }
  }

  // MARK: Sending

  private func payload(_ number: Int) -> ByteBuffer { ByteBuffer(repeating: UInt8(number & 255), count: settings.size) }

  private func push(_ id: AssociationID) {
    guard !settings.role.isPassive, sent < settings.count else { return }
    let ahead = max(1, SCTPTrialSettings.octetsUnderWay / settings.size)
    let now = SessionDriver.now()
    while sent < settings.count, settings.role == .source || sent - returned - abandoned < ahead {
      if let rate = settings.rate {
        let due = sendingBegan + .nanoseconds(Int64(Double(sent) / rate * 1e9))
        if due > now { return pushLater(id, due - now) }
      }
      let stream = StreamID(UInt16(sent % settings.streams))
      let isLast = sent + 1 == settings.count
      guard
        transport.send(
          payload(sent), stream: stream, protocolIdentifier: 7, isUnordered: settings.isUnordered,
          reliability: settings.patience.reliability(at: now), endOfWrite: isLast || settings.rate != nil, on: id)
      else { return }
      sent += 1
    }
    if sent == settings.count, settings.role == .source { transport.shutdown(id) }
  }

  private func pushLater(_ id: AssociationID, _ span: TimeSpan) {
    let bound = NIOLoopBound(self, eventLoop: loop)
    loop.scheduleTask(in: .nanoseconds(span.nanoseconds)) { bound.value.push(id) }
  }

  private func sendBack() {
    var index = 0
    while index < waiting.count {
      let next = waiting[index]
      guard
        transport.send(
          next.payload, stream: next.stream, protocolIdentifier: next.identifier, isUnordered: settings.isUnordered,
          reliability: settings.patience.reliability(at: SessionDriver.now()), endOfWrite: true, on: next.id)
          || transport.association(next.id) == nil
      else { break }
      index += 1
    }
    waiting.removeFirst(index)
  }

  // MARK: Receiving

  private func receive(_ payload: ByteBuffer, _ stream: StreamID, _ identifier: UInt32, _ id: AssociationID) {
    var count = counts[id] ?? Count()
    let now = SessionDriver.now()
    count.messages += 1
    count.octets += payload.readableBytes
    count.longestPause = max(count.longestPause, count.lastCame.map { now - $0 } ?? .zero)
    count.lastCame = now
    counts[id] = count
    switch settings.role {
    case .sink, .source: break
    case .echo:
      waiting.append((id, stream, identifier, payload))
      sendBack()
    case .client:
      if let complaint = complaint(payload, stream) { return fail(complaint) }
      returned += 1
      push(id)
      finishClient(id)
    }
  }

  /// The message must be the stream's next one; where messages may be given up, or have no order, it must be some message of the stream.
  private func complaint(_ payload: ByteBuffer, _ stream: StreamID) -> String? {
    var number = nextOnStream[stream.value] ?? Int(stream.value)
    if case .endless = settings.patience, !settings.isUnordered {
      nextOnStream[stream.value] = number + settings.streams
      return payload == self.payload(number)
        ? nil : "message \(number) on stream \(stream) came back changed: \(payload.readableBytes) octets"
    }
    number = Int(stream.value)
    while number < sent {
      if payload == self.payload(number) { return nil }
      number += settings.streams
    }
    return "a message on stream \(stream) came back changed: \(payload.readableBytes) octets"
  }

  private func finishClient(_ id: AssociationID) {
    guard settings.role == .client, sent == settings.count, returned + abandoned >= settings.count else { return }
    transport.shutdown(id)
  }

  private func end(_ id: AssociationID) {
    let count = counts.removeValue(forKey: id) ?? Count()
    nextRoundTrip[id] = nil
    let statistics = transport.association(id)?.statistics ?? AssociationStatistics()
    let seconds = max((SessionDriver.now() - count.began).seconds, 1e-6)
    let isSource = settings.role == .source
    let octets = isSource ? sent * settings.size : count.octets
    let messages = isSource ? sent : count.messages
    let rate = Double(octets) * 8 / seconds / 1e6
    let verb = isSource ? "sent" : settings.role == .client ? "came back" : "received"
    let pause = count.longestPause.seconds * 1_000
    tell(
      SCTPTrialLine(
        "result",
        "\(messages) messages, \(octets) octets \(verb) in \(SCTPTrialLine.rounded(seconds)) s (\(SCTPTrialLine.rounded(rate)) Mbit/s); "
          + "\(statistics.chunksRetransmitted) chunks sent again, \(statistics.duplicatesReceived) received twice, \(abandoned) messages given up; "
          + (isSource ? "" : "longest pause \(SCTPTrialLine.rounded(pause)) ms; ") + "\(statistics.moves) moves",
        [
          ("messages", .number(Double(messages))), ("octets", .number(Double(octets))), ("duration", .number(seconds)),
          ("megabitsPerSecond", .number(rate)), ("chunksSentAgain", .number(Double(statistics.chunksRetransmitted))),
          ("receivedTwice", .number(Double(statistics.duplicatesReceived))), ("abandoned", .number(Double(abandoned))),
          ("longestPauseMilliseconds", .number(pause)), ("moves", .number(Double(statistics.moves))),
        ], isResult: true), id)
    if settings.role == .client, returned + abandoned < settings.count {
      return fail("the association was shut down after \(returned) of \(settings.count) messages")
    }
    if !settings.role.isPassive || settings.isOnce { done.succeed() }
  }
}
