import DequeModule

/// Which lane the next octets of the flow come from. A carrier's structure tells it; everything else is lane 0.
///
/// A run of users' data stands behind at least 16 octets of structure that are not passed on yet, so the plan is smaller than what waits for it.
struct LanePlan: Sendable {
  struct Run: Sendable, Hashable {
    var lane: Int
    var octets: Int
  }

  private var runs: Deque<Run> = []
  private var endsOnLaneZero = false

  var first: Run? { runs.first ?? (endsOnLaneZero ? Run(lane: 0, octets: Int.max) : nil) }

  mutating func append(_ octets: Int, of lane: Int) {
    guard octets > 0 else { return }
    if let last = runs.indices.last, runs[last].lane == lane {
      runs[last].octets += octets
    } else {
      runs.append(Run(lane: lane, octets: octets))
    }
  }

  /// Behind all this everything is lane 0's.
  mutating func leaveToLaneZero() { endsOnLaneZero = true }

  mutating func trim() { if runs.isEmpty { runs = [] } }

  /// So many octets of the first run have gone.
  mutating func pass(_ octets: Int) {
    guard !runs.isEmpty else { return }
    runs[0].octets -= octets
    if runs[0].octets == 0 { runs.removeFirst() }
  }

  /// Octets of this lane at the plan's end, behind which there is nothing.
  func last(on lane: Int) -> Int {
    guard let last = runs.last, last.lane == lane else { return 0 }
    return last.octets
  }
}
