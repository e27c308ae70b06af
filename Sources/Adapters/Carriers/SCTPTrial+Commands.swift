import NIOCore
import SCTP
import Sockets
import Vocabulary

extension SCTPTrial {
  /// A line that a person has typed.
  package func obey(_ text: String) {
    guard !text.allSatisfy(\.isWhitespace) else { return }
    guard let command = SCTPTrialCommand(text) else {
      return tell(SCTPTrialLine("misunderstood", "\"\(text)\" is no command; there are: \(SCTPTrialCommand.help)", isResult: true))
    }
    carryOut(command)
  }

  func carryOut(_ command: SCTPTrialCommand) {
    let ids = counts.keys.sorted()
    if ids.isEmpty { return tell(SCTPTrialLine("idle", "there is no association", isResult: true)) }
    for id in ids { carryOut(command, id) }
  }

  private func carryOut(_ command: SCTPTrialCommand, _ id: AssociationID) {
    let streamIDs = { (numbers: [UInt16]) in numbers.map { StreamID($0) } }
    switch command {
    case .add(let address):
      whenDone(transport.open(address), "\(address)", id) { trial in
        trial.transport.tell(id) { $0.announce(address, at: $1) }
        let isKnown = trial.transport.association(id)?.localAddresses.contains(address) ?? false
        if !isKnown { trial.refuse("\(address) is not announced: both sides need AUTH (a key) and ASCONF", id) }
      }
    case .delete(let address):
      transport.tell(id) { $0.withdraw(address, at: $1) }
      if transport.association(id)?.localAddresses.contains(address) ?? false {
        refuse("\(address) is not deleted: it is the last one or in use, or there is no ASCONF", id)
      }
    case .primary(let address):
      guard transport.association(id)?.peerAddresses.contains(address) ?? false else {
        return refuse("the peer has no address \(address)", id)
      }
      transport.tell(id) { association, _ in association.prefer(address) }
    case .move(let local, let remote): whenDone(transport.move(id, from: local, to: remote), "move", id) { _ in }
    case .reset(let streams): ask(id, "the peer resets no streams") { $0.resetStreams(streamIDs(streams)) }
    case .askToReset(let streams): ask(id, "the peer resets no streams") { $0.askToReset(streamIDs(streams)) }
    case .addStreams(let count): ask(id, "no streams can be added") { $0.addStreams(count, .outgoing) }
    case .status: status(of: id)
    case .shutdown: transport.shutdown(id)
    case .abort: transport.abort(id, reason: "the user has aborted the association")
    }
  }

  private func refuse(_ why: String, _ id: AssociationID) {
    tell(SCTPTrialLine("refused", why, [("reason", .text(why))], isResult: true), id)
  }

  private func ask(_ id: AssociationID, _ refusal: String, _ body: (inout SessionAssociation) -> Bool) {
    var isTaken = false
    transport.tell(id) { association, _ in isTaken = body(&association) }
    if !isTaken { refuse(refusal, id) }
  }

  private func whenDone(_ future: EventLoopFuture<Void>, _ what: String, _ id: AssociationID, _ next: @escaping (SCTPTrial) -> Void) {
    future.assumeIsolated().whenComplete { [weak self] result in
      guard let self else { return }
      switch result {
      case .success: next(self)
      case .failure(let error): refuse("\(what): \(describe(error))", id)
      }
    }
  }

  private func status(of id: AssociationID) {
    guard let association = transport.association(id) else { return }
    let ways = transport.ways(of: id)
    let active = association.activeCarrier.map { "\($0)" } ?? "none"
    let statistics = association.statistics
    tell(
      SCTPTrialLine(
        "status",
        "\(association.state), by \(ways.joined(separator: ", ")), active carrier \(active); ours \(association.localAddresses.map(\.description).joined(separator: ", ")), "
          + "the peer's \(association.peerAddresses.map(\.description).joined(separator: ", ")); \(statistics.messagesSent) messages sent, \(statistics.messagesDelivered) delivered",
        [
          ("state", .text("\(association.state)")), ("ways", .text(ways.joined(separator: ", "))),
          ("messagesSent", .number(Double(statistics.messagesSent))), ("messagesDelivered", .number(Double(statistics.messagesDelivered))),
        ], isResult: true), id)
  }
}
