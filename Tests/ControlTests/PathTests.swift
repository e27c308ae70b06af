import Paths
import Testing
import Vocabulary

@Suite("Estimates of paths")
struct PathTests {
  static func at(_ milliseconds: Int64) -> Instant { .zero + .milliseconds(milliseconds) }

  @Test("nothing is estimated before a round trip has been measured")
  func empty() {
    var estimator = PathEstimator()
    #expect(estimator.estimate(at: .zero) == nil)
    estimator.add(.lost, at: .zero)
    estimator.add(.rate(.megabitsPerSecond(100)), at: .zero)
    #expect(estimator.estimate(at: .zero) == nil)
  }

  @Test("the round trip is the minimum over the window, and a longer path is believed once the window has passed")
  func minimum() throws {
    var estimator = PathEstimator()
    for (index, milliseconds) in [10, 12, 50, 11].enumerated() {
      estimator.add(.roundTrip(.milliseconds(Int64(milliseconds))), at: Self.at(Int64(index) * 1_000))
    }
    #expect(try #require(estimator.estimate(at: Self.at(3_000))).roundTrip == .milliseconds(10 as Int64))
    for second in 4...14 { estimator.add(.roundTrip(.milliseconds(300 as Int64)), at: Self.at(Int64(second) * 1_000)) }
    let estimate = try #require(estimator.estimate(at: Self.at(14_000)))
    #expect(estimate.roundTrip == .milliseconds(300 as Int64))
    #expect(estimate.lastRoundTrip == .milliseconds(300 as Int64))
  }

  @Test("the smoothed round trip follows RFC 6298: first R and R/2, then 7/8 and 3/4 of the old")
  func smoothed() throws {
    var estimator = PathEstimator()
    estimator.add(.roundTrip(.milliseconds(80 as Int64)), at: .zero)
    var estimate = try #require(estimator.estimate(at: .zero))
    #expect(estimate.smoothedRoundTrip == .milliseconds(80 as Int64))
    #expect(estimate.roundTripVariation == .milliseconds(40 as Int64))
    estimator.add(.roundTrip(.milliseconds(160 as Int64)), at: Self.at(1))
    estimate = try #require(estimator.estimate(at: Self.at(1)))
    #expect(estimate.smoothedRoundTrip == .milliseconds(90 as Int64))  // (7 x 80 + 160) / 8
    #expect(estimate.roundTripVariation == .milliseconds(50 as Int64))  // (3 x 40 + 80) / 4
  }

  @Test("the rate is the best of the recent trains, and old ones are forgotten")
  func rate() throws {
    var estimator = PathEstimator()
    for (second, rate) in [(0, 98.0), (10, 60.0), (20, 95.0)] {
      estimator.add(.rate(.megabitsPerSecond(rate)), at: Self.at(Int64(second) * 1_000))
    }
    estimator.add(.roundTrip(.milliseconds(1 as Int64)), at: Self.at(20_000))
    #expect(try #require(estimator.estimate(at: Self.at(30_000))).rate == .megabitsPerSecond(98))
    #expect(try #require(estimator.estimate(at: Self.at(61_000))).rate == .megabitsPerSecond(95))
    #expect(try #require(estimator.estimate(at: Self.at(90_000))).rate == nil)
  }

  @Test("lost probes are counted over the window, and silence makes the estimate stale but does not hide it")
  func loss() throws {
    var estimator = PathEstimator()
    for second in 0..<8 {
      estimator.add(second % 4 == 0 ? .lost : .roundTrip(.milliseconds(20 as Int64)), at: Self.at(Int64(second) * 1_000))
    }
    let fresh = try #require(estimator.estimate(at: Self.at(7_000)))
    #expect(fresh.loss == 0.25)
    #expect(!fresh.isStale)
    let old = try #require(estimator.estimate(at: Self.at(17_001)))
    #expect(old.isStale)
    #expect(old.roundTrip == .milliseconds(20 as Int64))
  }

  @Test("a prober that is much too fast does not fill the memory")
  func bounded() throws {
    var limits = PathEstimator.Limits()
    limits.maximumSamples = 8
    var estimator = PathEstimator(limits: limits)
    estimator.add(.roundTrip(.milliseconds(1 as Int64)), at: .zero)
    for _ in 0..<100 { estimator.add(.roundTrip(.milliseconds(5 as Int64)), at: Self.at(1)) }
    // The 1 ms sample is well within the window: only the bound can have pushed it out.
    #expect(try #require(estimator.estimate(at: Self.at(1))).roundTrip == .milliseconds(5 as Int64))
  }

  @Test("a table tells paths apart and takes back a trouble when a probe succeeds")
  func table() {
    var table = PathTable()
    let near = PathID(from: "access", to: "center1")
    let far = PathID(from: "access", to: "center2")
    table.add(.roundTrip(.milliseconds(10 as Int64)), to: near, at: .zero)
    table.add(.lost, to: far, at: .zero)
    table.noteTrouble("connection refused", on: far)
    #expect(table.paths == [near, far])
    #expect(table.estimate(of: far, at: .zero) == nil)
    #expect(table.trouble(on: far) == "connection refused")
    table.add(.roundTrip(.milliseconds(300 as Int64)), to: far, at: .zero)
    #expect(table.trouble(on: far) == nil)
    #expect(table.estimate(of: far, at: .zero)?.roundTrip == .milliseconds(300 as Int64))
  }

  // MARK: Trains

  /// A train at `megabits`, in bursts of the given sizes that are a round trip apart, read in pieces of 1,448 octets.
  static func train(megabits: Double, bursts: [Int], roundTripMilliseconds: Int64) -> TrainDispersion {
    var train = TrainDispersion()
    for (index, burst) in bursts.enumerated() {
      var at = at(Int64(index) * roundTripMilliseconds)
      var left = burst
      while left > 0 {
        let piece = min(1_448, left)
        train.add(octets: piece, at: at)
        at = at + BitRate.megabitsPerSecond(megabits).time(for: ByteCount(piece))
        left -= piece
      }
    }
    return train
  }

  @Test("a train's rate is that of its longest burst, not of the pauses between TCP's windows", arguments: [10.0, 100, 1_000])
  func dispersion(megabits: Double) throws {
    let train = Self.train(megabits: megabits, bursts: [14_480, 28_960, 57_920, 115_840], roundTripMilliseconds: 300)
    let rate = try #require(train.rate(roundTrip: .milliseconds(300 as Int64)))
    #expect(abs(rate.megabitsPerSecond / megabits - 1) < 0.02, "\(rate.megabitsPerSecond)")
  }

  @Test("a train that came in one read, or in bursts too short to measure, gives no rate")
  func noDispersion() {
    var one = TrainDispersion()
    one.add(octets: 262_144, at: .zero)
    #expect(one.rate(roundTrip: .milliseconds(10 as Int64)) == nil)
    let short = Self.train(megabits: 100, bursts: [4_000, 4_000, 4_000], roundTripMilliseconds: 300)
    #expect(short.rate(roundTrip: .milliseconds(300 as Int64)) == nil)
    #expect(TrainDispersion().rate(roundTrip: .zero) == nil)
  }

  @Test("figures for people have one digit behind the point", arguments: [(300.44, "300.4"), (50, "50"), (-0.25, "-0.3"), (0.04, "0")])
  func figures(value: Double, text: String) { #expect(figure(value) == text) }
}
