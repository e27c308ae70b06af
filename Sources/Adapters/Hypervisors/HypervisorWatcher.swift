import Control
import Vocabulary

/// Watches one hypervisor: what it says, and what it answers, as one stream in the hypervisor's own order.
///
/// A watcher never guesses. Without a connection it says so (`lost`, or `gone` when nothing listens there any more), and a question that cannot be
/// answered is `unanswered`.
package protocol HypervisorWatcher: Sendable {
  /// The place that this hypervisor stands for.
  var site: SiteID { get }
  /// For one reader; it ends when `run` does.
  var notices: AsyncStream<HypervisorNotice> { get }
  /// Asks; returns at once. Exactly one of `guest`, `figures` and `unanswered` follows in `notices`, or the connection is `lost` before.
  func ask(_ question: HypervisorQuestion)
  /// Keeps watching until its task is cancelled.
  func run() async
}

/// Every wait of a watcher has its name and its limit here.
package struct WatcherLimits: Sendable, Hashable {
  /// The first pause before a hypervisor that was not there is looked for again; it doubles ...
  package var firstPause = TimeSpan.milliseconds(50 as Int64)
  /// ... up to this, for one across a network: one connection a second bothers nobody.
  package var longestPause = TimeSpan.seconds(1 as Int64)
  /// ... or to this, where a look costs two system calls (a unix socket): a destination may be started in the second in which its guest leaves.
  package var longestLocalPause = TimeSpan.milliseconds(200 as Int64)
  /// A hypervisor greets within a millisecond, unless another client has its socket.
  package var connect = TimeSpan.seconds(3 as Int64)
  /// For one answer. The main loop of QEMU stands still for the last round of a migration, which is its downtime: 300 ms as QEMU would like it, more if told so.
  package var answer = TimeSpan.seconds(10 as Int64)
  /// While migration events could not be turned on, the migration is asked about this often.
  package var poll = TimeSpan.milliseconds(250 as Int64)

  package init() {}
}
