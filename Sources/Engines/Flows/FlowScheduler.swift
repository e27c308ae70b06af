import DequeModule

/// Which flow is served next where several wait for one transport: classes share it by weight, flows of a class take turns.
///
/// A class that has waited for nothing begins where the others stand (start-time fair queueing): it saves nothing up, and it is served at once. What passed while
/// nobody waited took nothing from anybody and is not counted: else who comes later could take as much before the others had anything again.
package struct FlowScheduler: Sendable {
  /// What each class gets where all three have more than fits, in parts of their sum.
  package struct Weights: Sendable, Hashable {
    package var interactive: Int
    package var normal: Int
    package var bulk: Int

    /// Six, three and one tenth: keystrokes pass, and bulk never starves.
    package init(interactive: Int = 6, normal: Int = 3, bulk: Int = 1) {
      precondition(interactive > 0 && normal > 0 && bulk > 0)
      self.interactive = interactive
      self.normal = normal
      self.bulk = bulk
    }

    fileprivate subscript(index: Int) -> Int { index == 0 ? interactive : index == 1 ? normal : bulk }
  }

  /// So much interactive flows may be ahead of their part: the messages of 160 flows that type at once, each of which would else wait for a turn of a download.
  static let leadOctets = 16 << 10

  private struct Class: Sendable {
    var waiting: Deque<FlowID> = []
    /// Octets that have passed, divided by the weight.
    var passed = 0
  }

  private var classes = [Class](repeating: Class(), count: FlowPriority.allCases.count)
  private var members: Set<FlowID> = []
  /// Where the class stood that had got least of those that waited when a flow was last served: a class that comes begins there. A class of one flow leaves and comes at each turn, and keeps its place.
  private var standing = 0

  private let weights: Weights

  package init(_ weights: Weights = Weights()) { self.weights = weights }

  /// Flows that wait.
  package var count: Int { members.count }

  /// The flow has something and found no room. Said again it keeps its place.
  package mutating func wait(_ id: FlowID, _ priority: FlowPriority) {
    guard members.insert(id).inserted else { return }
    let index = Int(priority.rawValue)
    if members.count == 1 {
      for other in classes.indices { classes[other].passed = 0 }
      standing = 0
    }
    if classes[index].waiting.isEmpty { classes[index].passed = max(classes[index].passed, standing) }
    classes[index].waiting.append(id)
  }

  /// So many octets of a flow of this class have been taken.
  package mutating func passed(_ octets: Int, _ priority: FlowPriority) {
    guard !members.isEmpty else { return }
    let index = Int(priority.rawValue)
    classes[index].passed += octets / weights[index]
  }

  /// The flow whose turn it is; it waits no more.
  package mutating func next() -> FlowID? {
    let wanting = classes.indices.filter { !classes[$0].waiting.isEmpty }
    guard let least = wanting.map({ classes[$0].passed }).min(), let index = wanting.min(by: { place($0) < place($1) }),
      let id = classes[index].waiting.popFirst()
    else { return nil }
    standing = max(standing, least)
    // It may have left and another come with its identifier: `remove` has seen to that.
    members.remove(id)
    return id
  }

  private func place(_ index: Int) -> Int {
    classes[index].passed - (index == Int(FlowPriority.interactive.rawValue) ? FlowScheduler.leadOctets / weights[index] : 0)
  }

  /// The flow is gone.
  package mutating func remove(_ id: FlowID) {
    guard members.remove(id) != nil else { return }
    for index in classes.indices { classes[index].waiting.removeAll { $0 == id } }
  }
}
