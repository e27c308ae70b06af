import ChunkStores
import Dedup
import NIOCore
import NIOPosix
import Tunnel
import Vocabulary

/// Tells one peer what clients' accelerators have of one machine's chunks, while the machine's memory is copied to the peer's side (docs/wire/tunnel.md, HAVE).
///
/// It keeps out of everything's way: a few names at a time, none while anything else goes to the peer. An order that comes again lets it go on, with what has been used since.
final class CacheFilling {
  struct Key: Hashable, Sendable {
    var peer: NodeID
    var service: IPAddress
  }

  /// Names of one machine: 1 GiB of chunks, as many as its ring has. They are 2.6 MB on the wire, for each of the clients' accelerators.
  static let names = ServiceRing.capacity
  static let pause = TimeAmount.milliseconds(10)
  /// 32 KB in 10 ms are 26 Mbit/s: a second for all.
  static let framesAtOnce = 4

  private let key: Key
  private let store: any ChunkStore
  private let services: ServiceBook
  private let loop: any EventLoop
  private let link: () -> TunnelLink?
  private var deadline: NIODeadline
  private var waiting: [PeerBelief] = []
  private var told: Set<ChunkName> = []
  private var task: Scheduled<Void>?
  private var isLooking = false
  /// Names that have gone out.
  private var sent = 0
  /// When all that there was has been told: how many names, since the beginning.
  var onTold: ((Int) -> Void)?

  /// - Parameter link: the connection to use now, if there is one that nothing else needs.
  init(key: Key, store: any ChunkStore, services: ServiceBook, loop: any EventLoop, hold: TimeAmount, link: @escaping () -> TunnelLink?) {
    self.key = key
    self.store = store
    self.services = services
    self.loop = loop
    self.link = link
    deadline = .now() + hold
  }

  /// True when an order has to come again before it does anything.
  var isOver: Bool { deadline <= .now() }

  /// Begins, or goes on for so long from now.
  func extend(_ hold: TimeAmount) {
    deadline = .now() + hold
    if !waiting.isEmpty {
      if task == nil { step() }
    } else if !isLooking {
      look()
    }
  }

  func stop() {
    task?.cancel()
    task = nil
    waiting = []
    deadline = .uptimeNanoseconds(0)
  }

  /// What is to be told and has not been. On a thread of its own: to look 131,072 names up takes some 100 ms, which no flow should wait for.
  private func look() {
    isLooking = true
    let found = NIOThreadPool.singleton.runIfActive(eventLoop: loop) { [key, store, services, told] in
      CacheFilling.news(of: key, store, services, told: told)
    }
    found.assumeIsolated().whenComplete { [weak self] result in
      guard let self else { return }
      self.isLooking = false
      guard case .success(let (news, told)) = result, !self.isOver else { return }
      self.told = told
      // Sent from the end; what was used last goes first.
      self.waiting = news.reversed()
      self.step()
    }
  }

  /// Of a machine that nothing is known of since the start: what was used last at all.
  private static func news(
    of key: Key, _ store: any ChunkStore, _ services: ServiceBook, told: Set<ChunkName>
  ) -> (news: [PeerBelief], told: Set<ChunkName>) {
    var names = services.names(of: key.service, limit: CacheFilling.names)
    if names.isEmpty { names = store.recent(CacheFilling.names).map(\.name) }
    let fresh = names.filter { !told.contains($0) }
    var news: [PeerBelief] = []
    for belief in store.beliefs(about: fresh) where belief.peer != key.peer {
      for start in stride(from: 0, to: belief.names.count, by: TunnelLimits.namesAtOnce) {
        let part = Array(belief.names[start..<min(start + TunnelLimits.namesAtOnce, belief.names.count)])
        news.append(PeerBelief(peer: belief.peer, store: belief.store, names: part))
      }
    }
    return (news, told.union(fresh))
  }

  private func step() {
    task = nil
    guard !isOver, !waiting.isEmpty else { return }
    if let link = link() {
      for _ in 0..<CacheFilling.framesAtOnce {
        guard let have = waiting.popLast() else { break }
        link.say(.have(have))
        sent += have.names.count
      }
      if waiting.isEmpty { onTold?(sent) }
    }
    task = loop.assumeIsolated().scheduleTask(in: CacheFilling.pause) { [weak self] in self?.step() }
  }
}

// MARK: The shard

extension Shard {
  /// Fillings that one loop has at once; those that are over make room.
  static let maximumFillings = 32

  /// False if no connection to the peer is on this loop.
  func fill(_ peer: NodeID, of service: IPAddress, for hold: TimeAmount) -> Bool {
    let key = CacheFilling.Key(peer: peer, service: service)
    guard hold > .zero else {
      guard let filling = fillings.removeValue(forKey: key) else { return groups[peer] != nil }
      filling.stop()
      return true
    }
    if let filling = fillings[key] {
      filling.extend(hold)
      return true
    }
    guard let group = groups[peer], group.all.contains(where: \.isEstablished) else { return false }
    guard let store else { return true }
    fillings = fillings.filter { !$0.value.isOver }
    guard fillings.count < Shard.maximumFillings else { return true }
    let filling = CacheFilling(key: key, store: store, services: services, loop: loop, hold: hold) { [weak self] in self?.idleLink(to: peer)
    }
    filling.onTold = { [logger, report] count in
      let text = "\(peer) has been told what others have of \(service): \(count) chunks"
      logger.info("\(text)")
      report(.event(text))
    }
    fillings[key] = filling
    filling.extend(hold)
    return true
  }

  /// A connection that nothing waits on, while no flow to this peer is busy.
  private func idleLink(to peer: NodeID) -> TunnelLink? {
    guard let group = groups[peer], !group.isBusy, !group.all.contains(where: \.hasBacklog) else { return nil }
    return group.all.first { $0.isEstablished && $0.bufferedOctets == 0 }
  }

  /// The peer's word on a third one.
  func believe(_ have: PeerBelief) {
    guard have.peer != settings.node else { return }
    store?.believe(have)
  }
}
