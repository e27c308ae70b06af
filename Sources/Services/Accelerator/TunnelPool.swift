import Flows
import Interception
import Logging
import NIOCore
import NIOPosix
import Sockets
import Tunnel
import Vocabulary

/// The tunnel connections of one event loop to one peer: dialled at the start, dialled again when they end.
final class TunnelPool {
  static let connectLimit = TimeAmount.seconds(5)
  /// Between two tries to reach a peer that is away: 100 ms doubled up to 5 s, each drawn from its half to its whole, so that several accelerators
  /// do not all come back at once.
  static let firstPause = 0.1
  static let longestPause = 5.0
  /// Applications that wait for the first connection of a pool, and how long: over a peer's restart. When it has been away for longer, nobody waits.
  static let maximumWaiting = 256
  static let waitingLimit = TimeAmount.seconds(5)
  /// And how long where they may go directly instead: a connection that was cut is dialled again after 50 to 100 ms, and is there after a round trip.
  static let bypassPatience = TimeAmount.milliseconds(200)

  private struct Slot {
    var link: TunnelLink?
    /// Failures in a row.
    var failures = 0
    var task: Scheduled<Void>?
  }

  private struct Waiting {
    var request: FlowRequest
    var client: any WaitingClient
    var pass: (PassReason) -> Void
    var since: NIODeadline
  }

  let peer: AcceleratorSettings.Peer
  private let security: TunnelSecurity
  /// What becomes of a flow that this pool cannot take.
  var bypass: EntranceSettings.Bypass
  private let loop: any EventLoop
  private let logger: Logger
  /// Makes a link for a channel of this loop.
  private let makeLink: (@escaping (TunnelLink) -> Void, @escaping (TunnelLink, TunnelClosure) -> Void) -> TunnelLink
  private var slots: [Slot]
  private var waiting: [Waiting] = []
  private var waitingTask: Scheduled<Void>?
  private var random = SystemRandomNumberGenerator()
  private var isStopped = false
  /// Since when no connection stands; nil while one does, and before the first try has failed.
  private var awaySince: NIODeadline?

  /// - Parameter makeLink: makes a dialling link from what to do once it is established and once it is closed.
  init(
    peer: AcceleratorSettings.Peer, connections: Int, bypass: EntranceSettings.Bypass, security: TunnelSecurity, loop: any EventLoop,
    logger: Logger,
    makeLink: @escaping (@escaping (TunnelLink) -> Void, @escaping (TunnelLink, TunnelClosure) -> Void) -> TunnelLink
  ) {
    self.peer = peer
    self.bypass = bypass
    self.security = security
    self.loop = loop
    self.logger = logger
    self.makeLink = makeLink
    slots = [Slot](repeating: Slot(), count: connections)
  }

  var establishedCount: Int { slots.count { $0.link?.isEstablished == true } }

  func start() {
    for index in slots.indices { dial(index) }
  }

  /// The peer is not one of ours any more, or this end is about to stop: no flow begins and nothing is dialled; connections go when their last flow has ended.
  func leave(_ goodbye: TunnelGoodbye) {
    isStopped = true
    for slot in slots {
      slot.task?.cancel()
      slot.link?.leave(thenClose: goodbye)
    }
    waitingTask?.cancel()
    passWaiting(.draining) { _ in true }
  }

  /// So many connections from now on; those too many take no new flows, and go when their last has ended.
  func resize(_ connections: Int) {
    guard !isStopped, connections != slots.count else { return }
    for slot in slots.dropFirst(connections) {
      slot.task?.cancel()
      slot.link?.leave(thenClose: TunnelGoodbye(.stopping, "fewer connections are wanted"))
    }
    let old = slots.count
    slots = Array(slots.prefix(connections)) + [Slot](repeating: Slot(), count: max(connections - old, 0))
    for index in slots.indices.dropFirst(old) { dial(index) }
  }

  func stop() {
    isStopped = true
    waitingTask?.cancel()
    for slot in slots {
      slot.task?.cancel()
      slot.link?.close(TunnelGoodbye(.stopping, "\(peer.node)'s peer is being stopped"))
    }
    for entry in waiting { entry.client.refuse(.lost) }
    waiting = []
  }
}

// MARK: Flows

extension TunnelPool {
  /// - Parameter pass: takes the flow if no connection can.
  func open(_ request: FlowRequest, for client: any WaitingClient, otherwise pass: @escaping (PassReason) -> Void) {
    if let link = best() { return link.open(request, for: client) }
    guard !isStopped else { return pass(.draining) }
    let standing = slots.compactMap(\.link).filter(\.isEstablished)
    if standing.contains(where: { !$0.isLeaving }) { return pass(.peerFull) }
    if !standing.isEmpty, bypass == .direct { return pass(.draining) }
    if let awaySince, .now() - awaySince >= patience { return pass(.peerAway) }
    guard waiting.count < TunnelPool.maximumWaiting else { return pass(.tooManyWaiting) }
    waiting.append(Waiting(request: request, client: client, pass: pass, since: .now()))
    watchWaiting()
  }

  /// How long applications wait for a peer that has just gone.
  private var patience: TimeAmount { bypass == .direct ? TunnelPool.bypassPatience : TunnelPool.waitingLimit }

  /// The connection that a new flow waits least on: none starved before any starved, then the fewest flows, then a warm one, then one that is on
  /// its way there.
  private func best() -> TunnelLink? {
    slots.compactMap(\.link).filter(\.hasPlace).min { rank($0) < rank($1) }
  }

  private func rank(_ link: TunnelLink) -> (Int, Int, Int) {
    (link.hasBacklog ? 1 : 0, link.flowCount, link.isWarm ? 0 : link.isOpeningWindow ? 1 : 2)
  }

  private func serveWaiting() {
    let clients = waiting
    waiting = []
    waitingTask?.cancel()
    waitingTask = nil
    for entry in clients where entry.client.channel.isActive { open(entry.request, for: entry.client, otherwise: entry.pass) }
  }

  private func watchWaiting() {
    guard waitingTask == nil, let first = waiting.first else { return }
    waitingTask = loop.assumeIsolated().scheduleTask(deadline: first.since + patience) { [weak self] in
      guard let self else { return }
      self.waitingTask = nil
      let now = NIODeadline.now()
      self.passWaiting(.peerAway) { now - $0.since >= self.patience }
      self.watchWaiting()
    }
  }

  private func passWaiting(_ reason: PassReason, _ isDue: (Waiting) -> Bool) {
    let due = waiting.filter(isDue)
    waiting.removeAll(where: isDue)
    for entry in due where entry.client.channel.isActive { entry.pass(reason) }
  }
}

// MARK: Connections

extension TunnelPool {
  private func dial(_ index: Int) {
    guard !isStopped else { return }
    let link = makeLink(
      { [weak self] link in self?.established(index, link) },
      { [weak self] link, closure in self?.closed(index, link, closure) })
    slots[index].link = link
    let bound = NIOLoopBound(link, eventLoop: loop)
    let connecting = ClientBootstrap(group: loop)
      .connectTimeout(TunnelPool.connectLimit)
      .channelOption(.writeBufferWaterMark, value: TCPSocket.waterMarks)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: TCPSocket.readOctets))
      .channelInitializer { [security, peer] channel in
        channel.eventLoop.makeCompletedFuture {
          _ = try security.secure(channel, as: .dialler, peer: peer.node)
          try channel.pipeline.syncOperations.addHandler(bound.value)
        }
      }
    do {
      connecting.connect(to: try SocketAddress(peer.tunnel)).assumeIsolated().whenFailure { [weak self] error in
        // With a channel the link has reported its end itself.
        self?.closed(index, link, .here(TunnelGoodbye(.silent, describe(error))))
      }
    } catch {
      closed(index, link, .here(TunnelGoodbye(.silent, describe(error))))
    }
  }

  private func established(_ index: Int, _ link: TunnelLink) {
    guard slots.indices.contains(index), slots[index].link === link else { return }
    slots[index].failures = 0
    if awaySince != nil {
      awaySince = nil
      logger.notice("peer \(peer.node) is back", metadata: ["tunnel": "\(peer.tunnel)"])
    }
    serveWaiting()
  }

  private func closed(_ index: Int, _ link: TunnelLink, _ closure: TunnelClosure) {
    guard slots.indices.contains(index), slots[index].link === link, !isStopped else { return }
    slots[index].link = nil
    slots[index].failures += 1
    report(closure, of: link)
    let longest = min(TunnelPool.firstPause * Double(1 << min(slots[index].failures - 1, 10)), TunnelPool.longestPause)
    let pause = Double.random(in: longest / 2...longest, using: &random)
    slots[index].task = loop.assumeIsolated().scheduleTask(in: .nanoseconds(Int64(pause * 1e9))) { [weak self] in self?.dial(index) }
  }

  /// Once for the pool, not for each connection and each try: the first failure is for the operator, the others for the debugger. The end of a
  /// connection that stood is the shard's to tell.
  private func report(_ closure: TunnelClosure, of link: TunnelLink) {
    let goesAway = awaySince == nil && establishedCount == 0
    if goesAway { awaySince = .now() }
    let level: Logger.Level = goesAway && link.peer == nil ? .warning : .debug
    logger.log(level: level, "tunnel to \(peer.node) at \(peer.tunnel): \(closure); trying again")
  }
}
