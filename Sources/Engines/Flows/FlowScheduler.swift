import DequeModule

/// Which flow is served next where several wait for one transport: classes share it by weight, flows of a class take turns.
///
/// A class that has waited for nothing begins where the others stand (start-time fair queueing): it saves nothing up, and it is served at once.
package struct FlowScheduler: Sendable {
  /// Six, three and one tenth where all three have more than fits: keystrokes pass, and bulk never starves.
  static func weight(_ priority: FlowPriority) -> Int {
    switch priority {
    case .interactive: 6
    case .normal: 3
    case .bulk: 1
    }
  }

  private struct Class: Sendable {
    var waiting: Deque<FlowID> = []
    /// Octets that have passed, divided by the weight.
    var passed = 0
  }

  private var classes = [Class](repeating: Class(), count: FlowPriority.allCases.count)
  private var members: Set<FlowID> = []

  package init() {}

  /// Flows that wait.
  package var count: Int { members.count }

  /// The flow has something and found no room. Said again it keeps its place.
  package mutating func wait(_ id: FlowID, _ priority: FlowPriority) {
    guard members.insert(id).inserted else { return }
    let index = Int(priority.rawValue)
    if classes[index].waiting.isEmpty, let least = classes.filter({ !$0.waiting.isEmpty }).map(\.passed).min() {
      classes[index].passed = max(classes[index].passed, least)
    }
    classes[index].waiting.append(id)
  }

  /// So many octets of a flow of this class have been taken.
  package mutating func passed(_ octets: Int, _ priority: FlowPriority) {
    classes[Int(priority.rawValue)].passed += octets / FlowScheduler.weight(priority)
  }

  /// The flow whose turn it is; it waits no more.
  package mutating func next() -> FlowID? {
    let index = classes.indices.filter { !classes[$0].waiting.isEmpty }.min { classes[$0].passed < classes[$1].passed }
    guard let index, let id = classes[index].waiting.popFirst() else { return nil }
    // It may have left and another come with its identifier: `remove` has seen to that.
    members.remove(id)
    return id
  }

  /// The flow is gone.
  package mutating func remove(_ id: FlowID) {
    guard members.remove(id) != nil else { return }
    for index in classes.indices { classes[index].waiting.removeAll { $0 == id } }
  }
}
