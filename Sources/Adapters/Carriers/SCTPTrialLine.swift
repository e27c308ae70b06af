import SCTP
import Vocabulary

/// One line that a trial prints: a sentence for people, an object for programs.
package struct SCTPTrialLine: Sendable {
  package enum Value: Sendable {
    case text(String)
    case number(Double)
    case numbers([UInt16])
  }

  package var name: String
  package var sentence: String
  package var fields: [(name: String, value: Value)]
  /// Results are printed always, events when they are asked for.
  package var isResult = false
  package var association: AssociationID?

  init(_ name: String, _ sentence: String, _ fields: [(String, Value)] = [], isResult: Bool = false) {
    self.name = name
    self.sentence = sentence
    self.fields = fields.map { (name: $0.0, value: $0.1) }
    self.isResult = isResult
  }

  /// - Parameter at: since the program began.
  package func text(at: TimeSpan) -> String {
    let who = association.map { "association \($0): " } ?? ""
    return isResult ? who + sentence : "\(Self.rounded(at.seconds)) s  " + who + sentence
  }

  package func json(at: TimeSpan) -> String {
    var members: [(String, Value)] = [("seconds", .number(Self.round(at.seconds))), ("event", .text(name))]
    if let association { members.append(("association", .number(Double(association.value)))) }
    members += fields.map { ($0.name, $0.value) }
    return "{" + members.map { "\(Self.quoted($0.0)):\(Self.written($0.1))" }.joined(separator: ",") + "}"
  }

  private static func written(_ value: Value) -> String {
    switch value {
    case .text(let text): quoted(text)
    case .number(let number): number == number.rounded() && abs(number) < 1e15 ? "\(Int64(number))" : "\(number)"
    case .numbers(let numbers): "[" + numbers.map { "\($0)" }.joined(separator: ",") + "]"
    }
  }

  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\\(scalar)"
      case _ where scalar.value < 0x20:
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }

  private static func round(_ value: Double) -> Double { (value * 1_000).rounded() / 1_000 }
  /// Three digits behind the point.
  static func rounded(_ value: Double) -> String { "\(round(value))" }
}

extension SCTPTrialLine {
  /// What an association says; nil for what is no news.
  package init?(_ effect: Effect) {
    switch effect {
    case .transmit, .deliver, .sendSpace: return nil
    case .established: self.init("established", "established")
    case .abandoned(let stream, _, let wasSent):
      self.init("abandoned", "a message on stream \(stream) was given up, \(wasSent ? "sent in vain" : "unsent")", [Self.stream(stream)])
    case .peerAnnounced(let address): self.init("peer-added", "the peer has added \(address)", [Self.address(address)])
    case .peerWithdrew(let address): self.init("peer-deleted", "the peer has deleted \(address)", [Self.address(address)])
    case .announced(let address): self.init("added", "the peer knows our address \(address)", [Self.address(address)])
    case .withdrawn(let address): self.init("deleted", "the peer has forgotten our address \(address)", [Self.address(address)])
    case .announcementRefused(let address, let reason):
      self.init("refused", "the peer refuses our address \(address): \(reason)", [Self.address(address), ("reason", .text(reason))])
    case .moved(let carrier): self.init("moved", "data goes by carrier \(carrier) now", [Self.carrier(carrier)])
    case .closeCarrier(let carrier, let reason):
      self.init("carrier-closed", "carrier \(carrier) is closed: \(reason)", [Self.carrier(carrier), ("reason", .text(reason))])
    case .carrierSilent(let carrier): self.init("silent", "nothing comes on carrier \(carrier)", [Self.carrier(carrier)])
    case .roundTrip(let carrier, let span):
      let milliseconds = span.seconds * 1_000
      self.init(
        "round-trip", "round trip on carrier \(carrier): \(Self.rounded(milliseconds)) ms",
        [Self.carrier(carrier), ("milliseconds", .number(Self.round(milliseconds)))])
    case .pathChanged(let carrier, let status):
      self.init("path", "carrier \(carrier) is \(status)", [Self.carrier(carrier), ("status", .text("\(status)"))])
    case .streamsReset(let direction, let streams):
      self.init(
        "reset", "\(direction) streams reset: \(Self.list(streams))", [("direction", .text("\(direction)")), Self.streams(streams)])
    case .streamsAdded(let direction, let total):
      self.init("streams", "\(total) \(direction) streams", [("direction", .text("\(direction)")), ("total", .number(Double(total)))])
    case .streamsNotReset(let streams, let reason):
      self.init("not-reset", "streams not reset: \(Self.list(streams)): \(reason)", [Self.streams(streams), ("reason", .text(reason))])
    case .streamRequestRefused(let reason): self.init("stream-request-refused", "refused: \(reason)", [("reason", .text(reason))])
    case .packetSizeChanged(let carrier, let octets):
      self.init(
        "packet-size", "packets on carrier \(carrier) may have \(octets) octets",
        [Self.carrier(carrier), ("octets", .number(Double(octets)))])
    case .restarted: self.init("restarted", "the peer has begun anew; what was under way is lost")
    case .peerReported(let what): self.init("peer-reported", "the peer reports: \(what)", [("reason", .text(what))])
    case .closed: self.init("closed", "shut down")
    case .failed(let error): self.init("failed", "failed: \(error)", [("reason", .text("\(error)"))])
    }
  }

  private static func address(_ address: IPAddress) -> (String, Value) { ("address", .text("\(address)")) }
  private static func carrier(_ carrier: CarrierID) -> (String, Value) { ("carrier", .number(Double(carrier.value))) }
  private static func stream(_ stream: StreamID) -> (String, Value) { ("stream", .number(Double(stream.value))) }
  private static func streams(_ streams: [StreamID]) -> (String, Value) { ("streams", .numbers(streams.map(\.value))) }
  private static func list(_ streams: [StreamID]) -> String {
    streams.isEmpty ? "all" : streams.map { "\($0.value)" }.joined(separator: ",")
  }
}
