import Vocabulary

/// Samples of one path in, an estimate out. It forgets what is older than its windows, and holds a bounded number of samples.
package struct PathEstimator: Sendable {
  package struct Limits: Sendable, Hashable {
    /// Over which the minimum is taken: 10 probes of the usual one a second, so that a path that grew longer is believed within 10 s.
    package var roundTripWindow = TimeSpan.seconds(10 as Int64)
    /// Trains are rare (at most one in 10 s), so they count longer: the last six.
    package var rateWindow = TimeSpan.seconds(60 as Int64)
    /// Ten probes in a row without an answer: what was known is no longer to be trusted.
    package var staleAfter = TimeSpan.seconds(10 as Int64)
    /// Samples of each kind; a prober that is faster than it should be pushes out its oldest.
    package var maximumSamples = 256

    package init() {}
  }

  private struct Timed<Value: Sendable>: Sendable {
    var value: Value
    var at: Instant
  }

  private let limits: Limits
  private var roundTrips: [Timed<TimeSpan>] = []
  private var rates: [Timed<BitRate>] = []
  /// True for a probe that was lost.
  private var outcomes: [Timed<Bool>] = []
  private var smoothed: (roundTrip: TimeSpan, variation: TimeSpan)?

  package init(limits: Limits = Limits()) { self.limits = limits }

  package mutating func add(_ sample: PathSample, at now: Instant) {
    switch sample {
    case .roundTrip(let span):
      roundTrips.append(Timed(value: span, at: now))
      outcomes.append(Timed(value: false, at: now))
      smooth(span)
    case .rate(let rate): rates.append(Timed(value: rate, at: now))
    case .lost: outcomes.append(Timed(value: true, at: now))
    }
    forget(at: now)
  }

  /// Nil until a round trip has been measured.
  package func estimate(at now: Instant) -> PathEstimate? {
    guard let last = roundTrips.last, let smoothed else { return nil }
    let recent = roundTrips.filter { now - $0.at <= limits.roundTripWindow }
    let probes = outcomes.filter { now - $0.at <= limits.roundTripWindow }
    return PathEstimate(
      // With nothing in the window the last one stands, marked stale below.
      roundTrip: recent.map(\.value).min() ?? last.value, smoothedRoundTrip: smoothed.roundTrip,
      roundTripVariation: smoothed.variation, lastRoundTrip: last.value,
      rate: rates.filter { now - $0.at <= limits.rateWindow }.map(\.value).max(),
      loss: probes.isEmpty ? 0 : Double(probes.count { $0.value }) / Double(probes.count), measuredAt: last.at,
      isStale: now - last.at > limits.staleAfter)
  }

  /// RFC 6298 (2.2) and (2.3), in its order: the variation first, from the old SRTT.
  private mutating func smooth(_ sample: TimeSpan) {
    guard let (roundTrip, variation) = smoothed else {
      smoothed = (sample, sample / 2)
      return
    }
    let error = sample > roundTrip ? sample - roundTrip : roundTrip - sample
    smoothed = ((roundTrip * 7 + sample) / 8, (variation * 3 + error) / 4)
  }

  private mutating func forget(at now: Instant) {
    // The last round trip is kept whatever its age: an estimate that is stale is still better told than hidden.
    while roundTrips.count > 1, let first = roundTrips.first,
      now - first.at > limits.roundTripWindow || roundTrips.count > limits.maximumSamples
    {
      roundTrips.removeFirst()
    }
    while let first = rates.first, now - first.at > limits.rateWindow || rates.count > limits.maximumSamples { rates.removeFirst() }
    while let first = outcomes.first, now - first.at > limits.roundTripWindow || outcomes.count > limits.maximumSamples {
      outcomes.removeFirst()
    }
  }
}

/// The estimates of all paths.
package struct PathTable: Sendable {
  /// 64 sites, each from each. Reports about more are not kept: the settings name the sites, so nothing right comes near it.
  package static let maximumPaths = 4_096

  private let limits: PathEstimator.Limits
  private var estimators: [PathID: PathEstimator] = [:]
  private var troubles: [PathID: String] = [:]

  package init(limits: PathEstimator.Limits = PathEstimator.Limits()) { self.limits = limits }

  package mutating func add(_ sample: PathSample, to path: PathID, at now: Instant) {
    if case .lost = sample {} else { troubles[path] = nil }
    guard estimators[path] != nil || estimators.count < PathTable.maximumPaths else { return }
    estimators[path, default: PathEstimator(limits: limits)].add(sample, at: now)
  }

  /// Remembers why a probe failed, until one succeeds.
  package mutating func noteTrouble(_ reason: String, on path: PathID) {
    guard estimators[path] != nil || estimators.count < PathTable.maximumPaths else { return }
    troubles[path] = reason
  }

  package func estimate(of path: PathID, at now: Instant) -> PathEstimate? { estimators[path]?.estimate(at: now) }
  package func trouble(on path: PathID) -> String? { troubles[path] }

  /// Every path that was ever measured, in a fixed order.
  package var paths: [PathID] { estimators.keys.sorted() }
}
