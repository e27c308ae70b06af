import Vocabulary

/// From where to where a path leads; each direction is a path of its own, because what is measured is seen from one end.
package struct PathID: Hashable, Sendable, Comparable, CustomStringConvertible {
  package var from: SiteID
  package var to: SiteID

  package init(from: SiteID, to: SiteID) {
    self.from = from
    self.to = to
  }

  package static func < (a: PathID, b: PathID) -> Bool { (a.from, a.to) < (b.from, b.to) }
  package var description: String { "\(from) to \(to)" }
}

/// One thing that a probe found out.
package enum PathSample: Sendable, Hashable {
  case roundTrip(TimeSpan)
  /// What the dispersion of one train of octets came to.
  case rate(BitRate)
  /// A probe that nobody answered.
  case lost
}

/// What is believed of a path at a moment.
package struct PathEstimate: Sendable, Hashable {
  /// The minimum over the window: the path without its queues, and what decisions go by.
  package var roundTrip: TimeSpan
  /// RFC 6298 section 2: SRTT and RTTVAR, with alpha 1/8 and beta 1/4.
  package var smoothedRoundTrip: TimeSpan
  package var roundTripVariation: TimeSpan
  package var lastRoundTrip: TimeSpan
  /// The best of the recent trains, since cross traffic and stalls only ever slow one down; nil if none was measured.
  package var rate: BitRate?
  /// The share of recent probes that were lost, 0 to 1.
  package var loss: Double
  package var measuredAt: Instant
  /// Too old to decide by: nothing came back for `PathEstimator.Limits.staleAfter`.
  package var isStale: Bool

  package init(
    roundTrip: TimeSpan, smoothedRoundTrip: TimeSpan, roundTripVariation: TimeSpan, lastRoundTrip: TimeSpan, rate: BitRate?, loss: Double,
    measuredAt: Instant, isStale: Bool
  ) {
    self.roundTrip = roundTrip
    self.smoothedRoundTrip = smoothedRoundTrip
    self.roundTripVariation = roundTripVariation
    self.lastRoundTrip = lastRoundTrip
    self.rate = rate
    self.loss = loss
    self.measuredAt = measuredAt
    self.isStale = isStale
  }
}

/// A number for a person, with one digit behind the point. Engines have no Foundation to do it.
package func figure(_ value: Double) -> String {
  guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
  let tenths = Int64((value * 10).rounded())
  let (whole, tenth) = tenths.magnitude.quotientAndRemainder(dividingBy: 10)
  return "\(tenths < 0 ? "-" : "")\(whole)" + (tenth == 0 ? "" : ".\(tenth)")
}
