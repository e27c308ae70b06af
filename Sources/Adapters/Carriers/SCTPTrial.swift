import NIOCore
import SCTP
import Vocabulary

/// What one trial of SCTP is to do.
package struct SCTPTrialSettings: Sendable {
  package enum Role: Sendable {
    /// Sends back what comes.
    case echo
    /// Counts what comes.
    case sink
    /// Sends messages, and wants each back as it was.
    case client
    /// Sends messages.
    case source
  }

  package var role: Role
  package var size = 1_000
  package var count = 100
  package var streams = 1
  package var isUnordered = false
  /// The passive roles: end when the first association ends.
  package var isOnce = false

  package init(role: Role) { self.role = role }

  /// A message larger than the receive window would never be whole at the other end: 16 MiB less its fragments' headers.
  package static let largestMessage = 15 << 20
  /// What a client may have under way, so that the echo's way back never stands still for its way there.
  package static let octetsUnderWay = 8 << 20
}

/// One role of a trial, on a transport and its event loop.
package final class SCTPTrial {
  private let settings: SCTPTrialSettings
  private let transport: any MessageTransport
  private let say: (String) -> Void
  private let tell: (String) -> Void
  private let done: EventLoopPromise<Void>
  private var counts: [AssociationID: Count] = [:]
  private var waiting: [(id: AssociationID, stream: StreamID, identifier: UInt32, payload: ByteBuffer)] = []
  private var sent = 0
  private var returned = 0
  private var nextOnStream: [UInt16: Int] = [:]

  private struct Count {
    var messages = 0
    var octets = 0
    var began = SessionDriver.now()
    var statistics = AssociationStatistics()
  }

  /// - Parameters:
  ///   - say: takes results, a line each.
  ///   - tell: takes events, for those who want to see them.
  package init(
    _ settings: SCTPTrialSettings, _ transport: any MessageTransport, loop: any EventLoop, say: @escaping (String) -> Void,
    tell: @escaping (String) -> Void
  ) {
    self.settings = settings
    self.transport = transport
    self.say = say
    self.tell = tell
    done = loop.makePromise()
    transport.onEvent = { [unowned self] in take($1, of: $0) }
    transport.onAccepted = { [unowned self] id, remote in
      counts[id] = Count()
      tell("association \(id): accepted from \(remote)")
    }
    transport.onTrouble = { tell("refused: \($0)") }
  }

  /// Succeeds when the role has done its work; fails with a line for a person.
  package var result: EventLoopFuture<Void> { done.futureResult }

  /// The active roles' association, as soon as it is on its way.
  package func begin(_ id: AssociationID) { if counts[id] == nil { counts[id] = Count() } }

  package func stop() { done.succeed() }

  private func fail(_ what: String) { done.fail(SCTPTrialError(description: what)) }

  private var isPassive: Bool { settings.role == .echo || settings.role == .sink }

  private func take(_ event: Effect, of id: AssociationID) {
    if case .deliver = event {} else { tell("association \(id): \(event)") }
    switch event {
    case .established:
      counts[id, default: Count()].began = SessionDriver.now()
      push(id)
    case .sendSpace:
      sendBack()
      push(id)
    case .deliver(let stream, let identifier, let payload): receive(payload, stream, identifier, id)
    case .closed: end(id)
    case .failed(let error):
      if !isPassive { return fail("the association failed: \(error)") }
      say("association \(id) failed: \(error)")
      if settings.isOnce { fail("the association failed: \(error)") }
    default: break
    }
  }

  // MARK: Sending

  private func payload(_ number: Int) -> ByteBuffer { ByteBuffer(repeating: UInt8(number & 255), count: settings.size) }

  private func push(_ id: AssociationID) {
    guard !isPassive else { return }
    let ahead = max(1, SCTPTrialSettings.octetsUnderWay / settings.size)
    while sent < settings.count, settings.role == .source || sent - returned < ahead {
      let stream = StreamID(UInt16(sent % settings.streams))
      let isLast = sent + 1 == settings.count
      guard
        transport.send(
          payload(sent), stream: stream, protocolIdentifier: 7, isUnordered: settings.isUnordered, reliability: .full, endOfWrite: isLast,
          on: id)
      else { return }
      sent += 1
    }
    if sent == settings.count, settings.role == .source { transport.shutdown(id) }
  }

  private func sendBack() {
    var index = 0
    while index < waiting.count {
      let next = waiting[index]
      guard
        transport.send(
          next.payload, stream: next.stream, protocolIdentifier: next.identifier, isUnordered: settings.isUnordered, reliability: .full,
          endOfWrite: true,
          on: next.id) || transport.association(next.id) == nil
      else { break }
      index += 1
    }
    waiting.removeFirst(index)
  }

  // MARK: Receiving

  private func receive(_ payload: ByteBuffer, _ stream: StreamID, _ identifier: UInt32, _ id: AssociationID) {
    counts[id]?.messages += 1
    counts[id]?.octets += payload.readableBytes
    switch settings.role {
    case .sink, .source: break
    case .echo:
      waiting.append((id, stream, identifier, payload))
      sendBack()
    case .client:
      let number = nextOnStream[stream.value] ?? Int(stream.value)
      nextOnStream[stream.value] = number + settings.streams
      guard payload.readableBytes == settings.size, settings.isUnordered || payload == self.payload(number) else {
        return fail("message \(number) on stream \(stream) came back changed: \(payload.readableBytes) octets")
      }
      returned += 1
      if returned == settings.count { transport.shutdown(id) } else { push(id) }
    }
  }

  private func end(_ id: AssociationID) {
    let count = counts.removeValue(forKey: id) ?? Count()
    let statistics = transport.association(id)?.statistics ?? count.statistics
    let seconds = max((SessionDriver.now() - count.began).seconds, 1e-6)
    let octets = settings.role == .source ? sent * settings.size : count.octets
    let messages = settings.role == .source ? sent : count.messages
    let rate = Double(octets) * 8 / seconds / 1e6
    let verb = settings.role == .source ? "sent" : settings.role == .client ? "came back" : "received"
    say(
      "association \(id): \(messages) messages, \(octets) octets \(verb) in \(Self.rounded(seconds)) s (\(Self.rounded(rate)) Mbit/s); "
        + "\(statistics.chunksRetransmitted) chunks sent again, \(statistics.duplicatesReceived) received twice")
    if settings.role == .client, returned < settings.count {
      return fail("the peer shut down after \(returned) of \(settings.count) messages")
    }
    if !isPassive || settings.isOnce { done.succeed() }
  }

  /// Three digits behind the point.
  private static func rounded(_ value: Double) -> String { "\((value * 1_000).rounded() / 1_000)" }
}

/// Why a trial failed, in words.
package struct SCTPTrialError: Error, CustomStringConvertible {
  package var description: String
}
