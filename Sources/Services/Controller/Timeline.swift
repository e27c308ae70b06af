import Control
import NIOCore

/// What happened, in order, bounded; each entry has a moment of its own, so that `since` leaves none out and gives none twice.
struct Timeline {
  /// A migration writes about thirty lines, so this is a hundred migrations; 150 octets each, 600 KiB.
  static let maximumEntries = 4_096
  /// A line is for a person's screen; what a node sends beyond this is cut.
  static let maximumLine = 1_000

  private(set) var entries = CircularBuffer<TimelineEntry>()
  private var last: Int64 = 0

  /// Returns the entry as it was kept. `moment` is microseconds since 1970.
  mutating func append(actor: String, event: String, at moment: Int64) -> TimelineEntry {
    last = max(moment, last + 1)
    let entry = TimelineEntry(atMicroseconds: last, actor: actor, event: Timeline.plain(event))
    if entries.count == Timeline.maximumEntries { entries.removeFirst() }
    entries.append(entry)
    return entry
  }

  /// Those later than `moment`, the oldest first.
  func entries(since moment: Int64) -> [TimelineEntry] { entries.filter { $0.atMicroseconds > moment } }

  /// One line without control characters: nodes and hypervisors send words that end on terminals.
  private static func plain(_ text: String) -> String {
    String(String.UnicodeScalarView(text.unicodeScalars.prefix(maximumLine).map { $0.properties.generalCategory == .control ? " " : $0 }))
  }
}
