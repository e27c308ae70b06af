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

    var isPassive: Bool { self == .echo || self == .sink }
  }

  /// How long a message is tried.
  package enum Patience: Sendable {
    case endless
    case retransmissions(UInt16)
    case time(TimeSpan)

    func reliability(at now: Instant) -> Reliability {
      switch self {
      case .endless: .full
      case .retransmissions(let count): .retransmissions(count)
      case .time(let span): .until(now + span)
      }
    }
  }

  package var role: Role
  package var size = 1_000
  package var count = 100
  package var streams = 1
  package var isUnordered = false
  package var patience = Patience.endless
  /// Messages in a second; nil: as fast as they go.
  package var rate: Double?
  /// The passive roles: end when the first association ends.
  package var isOnce = false
  /// What is done so long after the first association stands.
  package var plan: [(after: TimeSpan, command: SCTPTrialCommand)] = []

  package init(role: Role) { self.role = role }

  /// A message larger than the receive window would never be whole at the other end: 16 MiB less its fragments' headers.
  package static let largestMessage = 15 << 20
  /// What a client may have under way, so that the echo's way back never stands still for its way there.
  package static let octetsUnderWay = 8 << 20
}

/// What a person tells a trial while it runs; it applies to every association that it has.
package enum SCTPTrialCommand: Sendable, Hashable {
  /// An address of ours answers, too (ASCONF Add-IP).
  case add(IPAddress)
  /// It does no longer (Delete-IP).
  case delete(IPAddress)
  /// We send to this address of the peer.
  case primary(IPAddress)
  /// Our end goes elsewhere, and wants its data there (Add-IP, Set-Primary).
  case move(from: IPAddress?, to: Endpoint?)
  case reset([UInt16])
  case askToReset([UInt16])
  case addStreams(UInt16)
  case status
  case shutdown
  case abort

  package static let help =
    "add ADDRESS | delete ADDRESS | primary PEER-ADDRESS | move [ADDRESS] [to ADDRESS:PORT] | reset 1,2 | ask-reset 1,2 | add-streams N | status | shutdown | abort"

  /// Nil if it is none.
  package init?(_ text: some StringProtocol) {
    let words = String(text).split(separator: " " as Character).map(String.init)
    guard let first = words.first else { return nil }
    let last = words.count == 2 ? words[1] : ""
    switch (first, words.count) {
    case ("add", 2): self.init(last) { .add($0) }
    case ("delete", 2): self.init(last) { .delete($0) }
    case ("primary", 2): self.init(last) { .primary($0) }
    case ("reset", 2): self.init(streams: last) { .reset($0) }
    case ("ask-reset", 2): self.init(streams: last) { .askToReset($0) }
    case ("add-streams", 2):
      guard let count = UInt16(last), count > 0 else { return nil }
      self = .addStreams(count)
    case ("move", 2...4):
      var rest = words.dropFirst()
      let from = IPAddress(rest[rest.startIndex])
      if from != nil { rest = rest.dropFirst() }
      if rest.isEmpty {
        self = .move(from: from, to: nil)
        return
      }
      guard rest.count == 2, rest.first == "to", let to = rest.last.flatMap({ Endpoint($0) }) else { return nil }
      self = .move(from: from, to: to)
    case ("status", 1): self = .status
    case ("shutdown", 1): self = .shutdown
    case ("abort", 1): self = .abort
    default: return nil
    }
  }

  private init?(_ text: String, _ make: (IPAddress) -> SCTPTrialCommand) {
    guard let address = IPAddress(text) else { return nil }
    self = make(address)
  }

  /// At most 1,000 streams a command: what RE-CONFIG takes in one request is more.
  private init?(streams text: String, _ make: ([UInt16]) -> SCTPTrialCommand) {
    let parts = text.split(separator: "," as Character, omittingEmptySubsequences: false)
    let numbers = parts.compactMap { UInt16($0) }
    guard (1...1_000).contains(parts.count), numbers.count == parts.count else { return nil }
    self = make(numbers)
  }
}

/// Why a trial failed, in words.
package struct SCTPTrialError: Error, CustomStringConvertible {
  package var description: String
  package init(description: String) { self.description = description }
}
