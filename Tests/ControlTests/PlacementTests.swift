import Paths
import Placement
import Testing
import Vocabulary

@Suite("The rule that inserts accelerators")
struct PlacementTests {
  static let path = PathID(from: "access", to: "center2")
  static let near = PlaceableAccelerator(node: "a", site: "access", entrance: Endpoint("10.0.1.3:3128")!)
  static let far = PlaceableAccelerator(node: "b", site: "center2", entrance: Endpoint("10.2.0.5:3128")!)

  static func estimate(_ milliseconds: Double, megabits: Double? = nil, at now: Instant = .zero, isStale: Bool = false) -> PathEstimate {
    let span = TimeSpan.milliseconds(milliseconds)
    return PathEstimate(
      roundTrip: span, smoothedRoundTrip: span, roundTripVariation: .zero, lastRoundTrip: span,
      rate: megabits.map { .megabitsPerSecond($0) },
      loss: 0, measuredAt: now, isStale: isStale)
  }

  static func seconds(_ count: Int64) -> Instant { .zero + .seconds(count) }

  @Test("a long round trip inserts accelerators, and the reason has the figures")
  func insert() {
    var rule = PlacementRule(path: Self.path)
    let decision = rule.decide(by: Self.estimate(300.4), near: Self.near, far: Self.far, at: .zero)
    #expect(decision.route == .through(near: Self.near, far: Self.far))
    #expect(decision.reason == "round trip 300.4 ms from access to center2 exceeds 50 ms")
  }

  @Test("a short round trip does not")
  func direct() {
    var rule = PlacementRule(path: Self.path)
    let decision = rule.decide(by: Self.estimate(50), near: Self.near, far: Self.far, at: .zero)
    #expect(decision.route == .direct)
    #expect(decision.reason == "direct: round trip 50 ms from access to center2 is within 50 ms")
  }

  @Test("a low rate inserts them only if the rule for rates is on")
  func rate() {
    var off = PlacementRule(path: Self.path)
    #expect(off.decide(by: Self.estimate(10, megabits: 5), near: Self.near, far: Self.far, at: .zero).route == .direct)
    var settings = PlacementSettings()
    settings.rateThreshold = .megabitsPerSecond(20)
    var on = PlacementRule(path: Self.path, settings: settings)
    let decision = on.decide(by: Self.estimate(10, megabits: 5), near: Self.near, far: Self.far, at: .zero)
    #expect(decision.route == .through(near: Self.near, far: Self.far))
    #expect(decision.reason == "rate 5 Mbit/s from access to center2 is below 20 Mbit/s")
    #expect(
      on.decide(by: Self.estimate(10), near: Self.near, far: Self.far, at: .zero).route != .direct, "no rate known is no reason to remove")
  }

  @Test("they stay until the path has been below 0.8 x the threshold for the hold time without a break")
  func hysteresis() {
    var rule = PlacementRule(path: Self.path)
    func isAccelerated(_ milliseconds: Double, _ second: Int64) -> Bool {
      rule.decide(by: Self.estimate(milliseconds), near: Self.near, far: Self.far, at: Self.seconds(second)).route != .direct
    }
    #expect(!isAccelerated(45, 0), "45 ms alone inserts nothing")
    #expect(isAccelerated(60, 1))
    #expect(isAccelerated(45, 2), "between 40 and 50 ms nothing changes")
    #expect(isAccelerated(45, 60))
    #expect(isAccelerated(30, 61))
    #expect(isAccelerated(30, 70))
    #expect(isAccelerated(41, 71), "a break starts the hold time again")
    #expect(isAccelerated(30, 72))
    #expect(isAccelerated(30, 81))
    #expect(!isAccelerated(30, 82))
    #expect(!isAccelerated(45, 83), "and the way back needs the full threshold again")
  }

  @Test(
    "where an accelerator is missing the path is direct, and the reason names the site",
    arguments: [
      (nil, far, "but no accelerator is registered at access"), (near, nil, "but no accelerator is registered at center2"),
      (nil, nil, "but no accelerator is registered at access or center2"),
    ] as [(PlaceableAccelerator?, PlaceableAccelerator?, String)])
  func missing(near: PlaceableAccelerator?, far: PlaceableAccelerator?, text: String) {
    var rule = PlacementRule(path: Self.path)
    let decision = rule.decide(by: Self.estimate(300), near: near, far: far, at: .zero)
    #expect(decision.route == .direct)
    #expect(decision.reason == "direct: round trip 300 ms from access to center2 exceeds 50 ms, \(text)")
  }

  @Test("without a measurement the path is direct, and the reason says so")
  func unmeasured() {
    var rule = PlacementRule(path: Self.path)
    let decision = rule.decide(by: nil, near: Self.near, far: Self.far, at: .zero)
    #expect(decision.route == .direct)
    #expect(decision.reason.hasPrefix("direct: no measurement from access to center2"))
  }

  @Test("a stale measurement changes nothing, either way")
  func stale() {
    var rule = PlacementRule(path: Self.path)
    let first = rule.decide(by: Self.estimate(300, isStale: true), near: Self.near, far: Self.far, at: Self.seconds(30))
    #expect(first.route == .direct)
    #expect(first.reason == "direct: the last measurement from access to center2 is 30 s old")
    _ = rule.decide(by: Self.estimate(300), near: Self.near, far: Self.far, at: Self.seconds(31))
    #expect(rule.decide(by: Self.estimate(10, isStale: true), near: Self.near, far: Self.far, at: Self.seconds(99)).route != .direct)
  }

  @Test("a client at the machine's own site goes direct, however slow it is there")
  func sameSite() {
    var rule = PlacementRule(path: PathID(from: "center2", to: "center2"))
    #expect(rule.decide(by: Self.estimate(80), near: Self.far, far: Self.far, at: .zero).route == .direct)
  }
}
