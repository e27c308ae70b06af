/// A moment on a monotonic clock, in nanoseconds since a start that the clock's owner chose.
///
/// Engines never ask for the time; it is handed to them. Two instants compare only when they come from the same clock.
package struct Instant: Hashable, Comparable, Sendable {
  package var nanoseconds: Int64

  package init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package static let zero = Instant(nanoseconds: 0)

  package static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }
  package static func + (a: Instant, b: TimeSpan) -> Instant { Instant(nanoseconds: a.nanoseconds + b.nanoseconds) }
  package static func - (a: Instant, b: TimeSpan) -> Instant { Instant(nanoseconds: a.nanoseconds - b.nanoseconds) }
  package static func - (a: Instant, b: Instant) -> TimeSpan { .nanoseconds(a.nanoseconds - b.nanoseconds) }
}

/// A length of time in nanoseconds: 64 bits, 292 years. `Swift.Duration` counts attoseconds in 128 bits, which the hot paths do not need.
package struct TimeSpan: Hashable, Comparable, Sendable, Codable {
  package var nanoseconds: Int64

  private init(_ nanoseconds: Int64) { self.nanoseconds = nanoseconds }

  package init(from decoder: any Decoder) throws { self.init(try decoder.singleValueContainer().decode(Int64.self)) }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(nanoseconds)
  }

  package static let zero = TimeSpan(0)
  package static func nanoseconds(_ count: Int64) -> TimeSpan { TimeSpan(count) }
  package static func microseconds(_ count: Int64) -> TimeSpan { TimeSpan(count * 1_000) }
  package static func milliseconds(_ count: Int64) -> TimeSpan { TimeSpan(count * 1_000_000) }
  package static func milliseconds(_ count: Double) -> TimeSpan { TimeSpan(Int64(count * 1e6)) }
  package static func seconds(_ count: Int64) -> TimeSpan { TimeSpan(count * 1_000_000_000) }
  package static func seconds(_ count: Double) -> TimeSpan { TimeSpan(Int64(count * 1e9)) }

  package var seconds: Double { Double(nanoseconds) / 1e9 }
  package var milliseconds: Double { Double(nanoseconds) / 1e6 }

  package static func < (a: TimeSpan, b: TimeSpan) -> Bool { a.nanoseconds < b.nanoseconds }
  package static func + (a: TimeSpan, b: TimeSpan) -> TimeSpan { TimeSpan(a.nanoseconds + b.nanoseconds) }
  package static func - (a: TimeSpan, b: TimeSpan) -> TimeSpan { TimeSpan(a.nanoseconds - b.nanoseconds) }
  package static func * (a: TimeSpan, b: Int64) -> TimeSpan { TimeSpan(a.nanoseconds * b) }
  package static func / (a: TimeSpan, b: Int64) -> TimeSpan { TimeSpan(a.nanoseconds / b) }
}
