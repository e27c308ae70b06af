import Vocabulary

/// How hard one event loop compresses: the zstd level of what begins now. All flows of the loop share it, because they share its processor.
///
/// More is worth it while the tunnel is what holds the flows up and the processor has time; less, when compressing takes most of the loop's time. In between nothing changes.
package final class CompressionEffort {
  /// From 0.5 GB/s for what a slow processor meets on a fast link to 60 MB/s for a link of some 100 Mbit/s.
  package static let levels: [Int32] = [-5, -1, 1, 3, 6]
  /// Level 1 at first: a new loop does not know yet which of the two is short.
  package static let first = 2
  /// Looks so far apart: long enough to average over bursts, short enough for a download of some seconds to gain by it.
  package static let interval = TimeSpan.milliseconds(Int64(500))
  /// Shares of the loop's time that compressing takes: above the one, less; below the other, more. Two steps of the ladder cost about twice as much time.
  package static let tooBusy = 0.6
  package static let hasTime = 0.2

  /// Flows that compress at once: half a GiB of contexts here, and somewhat less at the peer. Others go as they are until one is free.
  package static let contexts = 1_024

  private let maximumContexts: Int
  private var contexts = 0
  private var index = CompressionEffort.first
  private var since: Instant?
  private var spent = TimeSpan.zero
  private var linkWasFull = false

  package init(maximumContexts: Int = CompressionEffort.contexts) { self.maximumContexts = maximumContexts }

  /// One more flow may begin to compress.
  var hasContext: Bool { contexts < maximumContexts }

  func contextsChange(by count: Int) { contexts += count }

  package var level: Int32 { CompressionEffort.levels[index] }

  /// Compressing one batch took so long; `linkIsFull`: octets wait for the tunnel.
  package func note(_ span: TimeSpan, linkIsFull: Bool, at now: Instant) {
    guard let since else {
      self.since = now
      return
    }
    spent = spent + span
    if linkIsFull { linkWasFull = true }
    let passed = now - since
    guard passed >= CompressionEffort.interval else { return }
    let share = spent.seconds / passed.seconds
    if share > CompressionEffort.tooBusy {
      index = max(index - 1, 0)
    } else if share < CompressionEffort.hasTime, linkWasFull, passed < CompressionEffort.interval + CompressionEffort.interval {
      // Not after a pause: what the link was before it says nothing.
      index = min(index + 1, CompressionEffort.levels.count - 1)
    }
    self.since = now
    spent = .zero
    linkWasFull = false
  }
}
