import Control
import Vocabulary

/// Where a session's next carrier should go and when: pure bookkeeping for the client's session.
///
/// The destination is what the last GO said (at first, what the settings say). While tries fail, an accelerated path falls back to the
/// direct one, and addresses that the agent announced, or that have worked before, are tried too, since the controller may be what is lost.
struct Recovery {
  /// The first try is immediate; then 100 ms, doubled to at most 2 s, each with up to a quarter more by chance, so that a thousand clients do not return in step.
  static let firstDelay = TimeSpan.milliseconds(100 as Int64)
  static let longestDelay = TimeSpan.seconds(2 as Int64)
  /// An accelerator that fails twice in a row is passed by; once, when the client searches because nothing comes from the machine any more.
  static let triesThroughAccelerator = 2
  /// Addresses that the peer may announce and we keep; more are ignored.
  static let maximumAnnounced = 8
  /// Between two addresses that are tried side by side, the likeliest first: a quarter of a second is what RFC 8305 (section 5) recommends.
  static let stagger = TimeSpan.milliseconds(250 as Int64)

  struct Place: Equatable {
    var agent: Endpoint
    var path: PathChoice
  }

  private(set) var destination: Place
  /// Where the machine has answered last.
  private(set) var confirmed: Place
  private(set) var failures = 0
  private var announced: [IPAddress] = []
  /// Nothing comes from the destination any more, and nobody has said why: every address that is known is tried from the start.
  private var isSearching = false
  /// A connection there came to nothing: the next try leaves it out if there is another.
  private var avoided: IPAddress?

  init(destination: Place) {
    self.destination = destination
    confirmed = destination
  }

  /// GO: the destination is certain again.
  mutating func head(for place: Place) {
    destination = place
    failures = 0
    isSearching = false
  }

  mutating func succeeded(at place: Place) {
    destination = place
    confirmed = place
    failures = 0
    isSearching = false
  }

  /// - Parameter place: where a connection stood, and the agent did not answer on it; nil if there was none.
  mutating func failed(at place: Place? = nil) {
    failures += 1
    avoided = place?.agent.address
  }

  /// The machine has fallen silent, or has gone from where it was, without a word.
  mutating func search() {
    failures = 0
    isSearching = true
  }

  /// The client's own network has changed: what failed on the old one says nothing about the new.
  mutating func forgetFailures() { failures = 0 }

  /// The machine stays where it was (ROLL BACK of `agent`), or cannot be reached by the path that a GO named. False: nothing was headed for that is not confirmed.
  mutating func turnBack(from agent: Endpoint) -> Bool {
    guard destination.agent == agent, destination != confirmed else { return false }
    head(for: confirmed)
    return true
  }

  mutating func announce(_ address: IPAddress) {
    guard announced.count < Recovery.maximumAnnounced, !announced.contains(address) else { return }
    announced.append(address)
  }

  mutating func withdraw(_ address: IPAddress) { announced.removeAll { $0 == address } }

  func knows(_ address: IPAddress) -> Bool { destination.agent.address == address || announced.contains(address) }

  /// Where to try next, the likeliest first; the others follow at `stagger` while it does not answer.
  var candidates: [Place] {
    if case .direct = destination.path {
      return failures == 0 && !isSearching ? [destination] : everywhere
    }
    return failures < (isSearching ? 1 : Recovery.triesThroughAccelerator) ? [destination] : everywhere
  }

  var next: Place { candidates[0] }

  /// Every address that is known, straight, each time from another one on; and without the one where something else than the agent takes connections.
  private var everywhere: [Place] {
    var addresses = [destination.agent.address]
    for address in [confirmed.agent.address] + announced where !addresses.contains(address) { addresses.append(address) }
    if addresses.count > 1 { addresses.removeAll { $0 == avoided } }
    let first = failures % addresses.count
    return (addresses[first...] + addresses[..<first]).map {
      let port = $0 == confirmed.agent.address ? confirmed.agent.port : destination.agent.port
      return Place(agent: Endpoint(address: $0, port: port), path: .direct)
    }
  }

  func delay(using random: inout some RandomNumberGenerator) -> TimeSpan {
    guard failures > 0 else { return .zero }
    let doubled = Recovery.firstDelay * (Int64(1) << Int64(min(failures - 1, 10)))
    let base = min(doubled, Recovery.longestDelay)
    return base + .nanoseconds(Int64.random(in: 0...base.nanoseconds / 4, using: &random))
  }
}
