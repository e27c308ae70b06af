import Control
import NIOCore
import Placement
import Vocabulary

/// The nodes that have registered, and their ways to be told things.
struct NodeRegistry {
  /// Each is one connection with a buffer; a thousand of them are what one loop serves without noticing.
  static let maximumNodes = 1_024
  /// Orders that wait between a node's registration and its request for them: PREPARE, FREEZE, GO and probes, several times over.
  static let maximumWaiting = 64
  /// A node without its stream counts as present this long: it is about to ask for its orders, or to register again.
  static let grace = TimeSpan.seconds(5 as Int64)
  /// A client that has been away this long is not waited for by the next handover.
  static let absence = TimeSpan.seconds(60 as Int64)
  /// And a node that has been away this long is not listed any more.
  static let memory = TimeSpan.seconds(3_600 as Int64)

  /// Reports of a node that are known by heart: a batch whose answer got lost comes again, and a node sends up to 64 in one.
  static let maximumRecent = 64

  enum Link {
    /// What waits for the node's request.
    case waiting([ByteBuffer])
    case open(EventStream)
    case closed
  }

  struct Entry {
    var description: NodeDescription
    var link: Link
    /// Of the registration, or of the stream's opening or end.
    var changedAt: Instant
    /// The probe targets that it was told last.
    var targets: [ProbeTarget] = []
    /// The map that it was told last; nil: none yet, and it may have one of an earlier controller.
    var map: [PeerPlace]?
    /// Its last reports, the oldest first.
    var recent: [TimedReport] = []
    var hasLeft = false

    var isConnected: Bool {
      if case .open = link { return true }
      return false
    }
  }

  private var entries: [NodeID: Entry] = [:]

  // MARK: Read it

  subscript(_ node: NodeID) -> Entry? { entries[node] }
  var all: [Entry] { entries.sorted { $0.key < $1.key }.map(\.value) }
  var isFull: Bool { entries.count >= NodeRegistry.maximumNodes }

  func agents(of machine: MachineID) -> [NodeID] {
    entries.filter { $0.value.description.role == .agent && $0.value.description.machine == machine }.keys.sorted()
  }

  private func accelerators(at site: SiteID, _ now: Instant) -> [Entry] {
    all.filter { $0.description.role == .accelerator && $0.description.site == site && isPresent($0, now) }
  }

  private func isPresent(_ entry: Entry, _ now: Instant) -> Bool { entry.isConnected || now - entry.changedAt < NodeRegistry.grace }

  /// The accelerator that a path would use at this site: the first by name, so that equal states give equal decisions.
  func accelerator(at site: SiteID, at now: Instant) -> PlaceableAccelerator? {
    for entry in accelerators(at: site, now) {
      if let entrance = entry.description.entrance {
        return PlaceableAccelerator(node: entry.description.node, site: site, entrance: entrance)
      }
    }
    return nil
  }

  /// Who answers probes at this site, among the accelerators.
  func responder(at site: SiteID, at now: Instant) -> Endpoint? { accelerators(at: site, now).lazy.compactMap(\.description.probe).first }

  // MARK: Tell it

  /// Forgets the node that has been away longest, if one has: a place for one that is here.
  mutating func makeRoom(at now: Instant) {
    let away = entries.filter { !isPresent($0.value, now) }.min { ($0.value.changedAt, $0.key) < ($1.value.changedAt, $1.key) }
    if let away { entries[away.key] = nil }
  }

  /// A node has registered; what an earlier registration had is over.
  mutating func register(_ description: NodeDescription, at now: Instant) {
    if case .open(let stream) = entries[description.node]?.link { stream.close() }
    let recent = entries[description.node]?.recent ?? []
    entries[description.node] = Entry(description: description, link: .waiting([]), changedAt: now, recent: recent)
  }

  /// A node asks for its orders. False if it has to register first.
  mutating func open(_ stream: EventStream, for node: NodeID, at now: Instant) -> Bool {
    guard case .waiting(let waiting) = entries[node]?.link else { return false }
    // The head of the response waits for the first octets in some clients; and these prove the stream at once.
    stream.send(EventStream.keepAlive)
    for event in waiting { stream.send(event) }
    entries[node]?.link = .open(stream)
    entries[node]?.changedAt = now
    return true
  }

  /// A stream has ended. False if it was not the node's present one.
  mutating func close(_ stream: EventStream, of node: NodeID, at now: Instant) -> Bool {
    guard case .open(let current) = entries[node]?.link, current === stream else { return false }
    entries[node]?.link = .closed
    entries[node]?.changedAt = now
    return true
  }

  mutating func send(_ event: ByteBuffer, to node: NodeID, at now: Instant) {
    switch entries[node]?.link {
    case .open(let stream):
      if !stream.send(event) { _ = close(stream, of: node, at: now) }
    case .waiting(var waiting):
      waiting.append(event)
      entries[node]?.link = waiting.count <= NodeRegistry.maximumWaiting ? .waiting(waiting) : .closed
    case .closed, nil: break  // it registers again and hears where things stand
    }
  }

  /// False for a report that came before.
  mutating func isNews(_ report: TimedReport, from node: NodeID) -> Bool {
    guard var recent = entries[node]?.recent else { return true }
    guard !recent.contains(report) else { return false }
    if recent.count == NodeRegistry.maximumRecent { recent.removeFirst() }
    recent.append(report)
    entries[node]?.recent = recent
    return true
  }

  mutating func setMap(_ map: [PeerPlace], of node: NodeID) { entries[node]?.map = map }

  mutating func setTargets(_ targets: [ProbeTarget], of node: NodeID) { entries[node]?.targets = targets }

  /// Sends keep-alives; returns the nodes that have been away for long, each once.
  mutating func tick(at now: Instant) -> [NodeDescription] {
    var left: [NodeDescription] = []
    for (node, entry) in entries.sorted(by: { $0.key < $1.key }) {
      if case .open = entry.link {
        send(EventStream.keepAlive, to: node, at: now)
      } else if now - entry.changedAt > NodeRegistry.memory {
        entries[node] = nil
      } else if !entry.hasLeft, now - entry.changedAt > NodeRegistry.absence {
        entries[node]?.hasLeft = true
        left.append(entry.description)
      }
    }
    return left
  }

  func closeAll() {
    for case .open(let stream) in entries.values.map(\.link) { stream.close() }
  }
}
