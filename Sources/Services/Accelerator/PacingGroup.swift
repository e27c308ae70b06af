import NIOCore
import Synchronization
import Vocabulary

/// How many connections to one peer are busy, over all event loops. The only thing that loops share while octets flow.
final class PacingShare: Sendable {
  private let busy = Atomic<Int>(0)

  func change(by count: Int) { busy.wrappingAdd(count, ordering: .relaxed) }
  var count: Int { busy.load(ordering: .relaxed) }
}

/// Deals the rate limit of one peer out to the connections of one event loop that have something to send.
///
/// A connection is busy when it sent more than a twentieth of the limit in the last interval, or has data waiting. Busy ones share the limit
/// evenly; the others keep all of it as their cap, since what they send hardly counts: so one bulk flow beside any number of keystrokes has the whole rate. A
/// connection that turns busy overshoots for one interval at most (50 ms x the rate, which the path's queue must take).
final class PacingGroup {
  static let interval = TimeAmount.milliseconds(50)
  static let busyFraction = 0.05
  /// Without a limit: 5 % of it in 50 ms are 31 KB, one frame.
  static let assumedRate = BitRate.megabitsPerSecond(100)
  private let loop: any EventLoop
  private(set) var limit: BitRate?
  private let share: PacingShare
  private var links: [TunnelLink] = []
  private var task: RepeatedTask?
  private var busyHere = 0
  /// Octets in one interval that make a connection, or the whole group, busy.
  private var threshold: Int
  /// What was sent in the interval that began then.
  private var recent = (since: NIODeadline.uptimeNanoseconds(0), octets: 0)
  private var lastBusy = NIODeadline.uptimeNanoseconds(0)

  init(loop: any EventLoop, limit: BitRate?, share: PacingShare) {
    self.loop = loop
    self.limit = limit
    self.share = share
    threshold = PacingGroup.threshold(limit)
  }

  private static func threshold(_ limit: BitRate?) -> Int {
    let rate = limit ?? PacingGroup.assumedRate
    return Int(rate.bitsPerSecond / 8 * PacingGroup.busyFraction * Double(PacingGroup.interval.nanoseconds) / 1e9)
  }

  /// Another limit, from now on.
  func setLimit(_ limit: BitRate?) {
    guard limit != self.limit else { return }
    self.limit = limit
    threshold = PacingGroup.threshold(limit)
    if limit == nil { stop() }
    for link in links { link.setPacing(limit) }
    if limit != nil { start() }
  }

  var isEmpty: Bool { links.isEmpty }
  var all: [TunnelLink] { links }
  var isLimited: Bool { limit != nil }

  func add(_ link: TunnelLink) {
    links.append(link)
    link.setPacing(limit)
  }

  func remove(_ link: TunnelLink) {
    links.removeAll { $0 === link }
    if links.isEmpty { stop() }
  }

  /// A link has sent data.
  func noteTraffic(_ octets: Int) {
    let now = NIODeadline.now()
    if now - recent.since >= PacingGroup.interval { recent = (now, 0) }
    recent.octets += octets
    if recent.octets > threshold { lastBusy = now }
    start()
  }

  /// A link has sent padding: it needs its share, but is nothing that other padding should yield to.
  func notePadding() { start() }

  private func start() {
    guard task == nil, limit != nil else { return }
    for link in links { link.watchLosses() }
    let bound = NIOLoopBound(self, eventLoop: loop)
    task = loop.scheduleRepeatedTask(initialDelay: PacingGroup.interval, delay: PacingGroup.interval) { _ in bound.value.deal() }
  }

  /// More than keystrokes went to the peer a moment ago, on the connections of this loop: padding would be in the way. Keystrokes are not, or a tunnel that
  /// somebody types over would never get warm.
  var isBusy: Bool { NIODeadline.now() - lastBusy < PacingGroup.interval }

  private func deal() {
    guard let limit else { return }
    for link in links { link.watchLosses() }
    let sending = links.filter { $0.takeOctetsSinceDeal() > threshold || $0.hasBacklog }
    // Padding yields to data, so a connection that only opens its window has a share only while nobody has data.
    let busy = sending.isEmpty && !isBusy ? links.filter(\.isOpeningWindow) : sending
    share.change(by: busy.count - busyHere)
    busyHere = busy.count
    let each = BitRate(bitsPerSecond: limit.bitsPerSecond / Double(max(share.count, 1)))
    for link in links { link.setPacing(busy.contains { $0 === link } ? each : limit) }
    if busy.isEmpty, !isBusy { stop() }
  }

  private func stop() {
    task?.cancel()
    task = nil
    share.change(by: -busyHere)
    busyHere = 0
  }
}
