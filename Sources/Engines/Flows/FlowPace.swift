import Vocabulary

/// The class of a flow that no rule speaks of: interactive until it has moved more than 256 KiB within a second, normal from then on.
///
/// A page or a command's output fits into that; a download of more than 2 Mbit/s does not. It does not become interactive again: a download that pauses is
/// still a download, and a flow that changed its class at every pause would be reordered against itself.
package struct FlowPace: Sendable, Hashable {
  package static let octets = 256 << 10
  package static let span = TimeSpan.seconds(Int64(1))

  package private(set) var priority = FlowPriority.interactive
  private var began: Instant?
  private var moved = 0

  package init() {}

  /// So many octets have passed, in either direction.
  package mutating func note(_ count: Int, at now: Instant) {
    guard priority == .interactive else { return }
    if let began, now - began < FlowPace.span {
      moved += count
    } else {
      began = now
      moved = count
    }
    if moved > FlowPace.octets { priority = .normal }
  }
}
