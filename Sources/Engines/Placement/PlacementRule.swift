import Paths
import Vocabulary

/// An accelerator that can be put on a path.
package struct PlaceableAccelerator: Sendable, Hashable {
  package var node: NodeID
  package var site: SiteID
  /// Where it takes flows.
  package var entrance: Endpoint

  package init(node: NodeID, site: SiteID, entrance: Endpoint) {
    self.node = node
    self.site = site
    self.entrance = entrance
  }
}

package struct PlacementSettings: Sendable, Hashable {
  /// A path with a longer round trip than this gets accelerators. 50 ms: 64 KiB windows make 10.5 Mbit/s of it (65,536 x 8 / 0.05).
  package var delayThreshold = TimeSpan.milliseconds(50 as Int64)
  /// A path with a lower rate than this gets them, too; zero switches this off.
  package var rateThreshold = BitRate(bitsPerSecond: 0)
  /// How far a path must be on the good side of its threshold before they are removed: 0.8 x the delay, or the rate / 0.8 ...
  package var hysteresis = 0.8
  /// ... and for how long without a break.
  package var holdTime = TimeSpan.seconds(10 as Int64)

  package init() {}
}

/// What a path should be, and why, in words and figures.
package struct PlacementDecision: Sendable, Hashable {
  package enum Route: Sendable, Hashable {
    case direct
    /// `near` at the client's site, `far` at the machine's.
    case through(near: PlaceableAccelerator, far: PlaceableAccelerator)
  }

  package var route: Route
  /// The path calls for accelerators, whether there are any or not.
  package var isCalledFor = false
  package var reason: String
  /// What the decision went by; nil if there was nothing to go by.
  package var estimate: PathEstimate?
}

/// The threshold rule of one path, with its memory: whether accelerators are called for, and since when they are not any more.
package struct PlacementRule: Sendable {
  private enum State: Sendable {
    case direct
    /// `clearSince`: since when the path has been well on the good side; nil while it is not.
    case accelerated(clearSince: Instant?)
  }

  private let path: PathID
  private let settings: PlacementSettings
  private var state = State.direct

  package init(path: PathID, settings: PlacementSettings = PlacementSettings()) {
    self.path = path
    self.settings = settings
  }

  /// Decides by the present estimate. `near` and `far` are the accelerators that the two sites have, nil if none is at hand.
  package mutating func decide(
    by estimate: PathEstimate?, near: PlaceableAccelerator?, far: PlaceableAccelerator?, at now: Instant
  ) -> PlacementDecision {
    guard let estimate else {
      return PlacementDecision(
        route: .direct, reason: "direct: no measurement from \(path), so no reason to insert accelerators", estimate: nil)
    }
    guard !estimate.isStale else {
      // The path may be down, or its prober: the last decision stands, since nothing speaks against it.
      return decision(
        wanted: isAccelerated, reason: "the last measurement from \(path) is \(figure((now - estimate.measuredAt).seconds)) s old",
        estimate, near, far)
    }
    let reason = judge(estimate, at: now)
    return decision(wanted: isAccelerated, reason: reason, estimate, near, far)
  }

  private var isAccelerated: Bool {
    if case .accelerated = state { return true }
    return false
  }

  /// Moves the state and says why it is what it is.
  private mutating func judge(_ estimate: PathEstimate, at now: Instant) -> String {
    let roundTrip = "round trip \(figure(estimate.roundTrip.milliseconds)) ms from \(path)"
    let threshold = "\(figure(settings.delayThreshold.milliseconds)) ms"
    if estimate.roundTrip > settings.delayThreshold {
      state = .accelerated(clearSince: nil)
      return "\(roundTrip) exceeds \(threshold)"
    }
    if settings.rateThreshold.bitsPerSecond > 0, let rate = estimate.rate, rate < settings.rateThreshold {
      state = .accelerated(clearSince: nil)
      return
        "rate \(figure(rate.megabitsPerSecond)) Mbit/s from \(path) is below \(figure(settings.rateThreshold.megabitsPerSecond)) Mbit/s"
    }
    guard case .accelerated(let clearSince) = state else { return "\(roundTrip) is within \(threshold)" }
    guard isClear(estimate) else {
      state = .accelerated(clearSince: nil)
      return "\(roundTrip) is within \(threshold), but not below \(figure(settings.hysteresis)) x it"
    }
    let since = clearSince ?? now
    guard now - since >= settings.holdTime else {
      state = .accelerated(clearSince: since)
      return "\(roundTrip) is below \(figure(settings.hysteresis)) x \(threshold), but not yet for \(figure(settings.holdTime.seconds)) s"
    }
    state = .direct
    return "\(roundTrip) has been below \(figure(settings.hysteresis)) x \(threshold) for \(figure(settings.holdTime.seconds)) s"
  }

  private func isClear(_ estimate: PathEstimate) -> Bool {
    guard estimate.roundTrip.seconds < settings.delayThreshold.seconds * settings.hysteresis else { return false }
    guard settings.rateThreshold.bitsPerSecond > 0, let rate = estimate.rate else { return true }
    return rate.bitsPerSecond > settings.rateThreshold.bitsPerSecond / settings.hysteresis
  }

  private func decision(
    wanted: Bool, reason: String, _ estimate: PathEstimate, _ near: PlaceableAccelerator?, _ far: PlaceableAccelerator?
  ) -> PlacementDecision {
    guard wanted else { return PlacementDecision(route: .direct, reason: "direct: \(reason)", estimate: estimate) }
    guard path.from != path.to else {
      return PlacementDecision(route: .direct, reason: "direct: \(reason), but both ends are at \(path.from)", estimate: estimate)
    }
    guard let near, let far else {
      let bare = near == nil && far == nil ? "\(path.from) or \(path.to)" : "\(near == nil ? path.from : path.to)"
      return PlacementDecision(
        route: .direct, isCalledFor: true, reason: "direct: \(reason), but no accelerator is registered at \(bare)", estimate: estimate)
    }
    return PlacementDecision(route: .through(near: near, far: far), isCalledFor: true, reason: reason, estimate: estimate)
  }
}
