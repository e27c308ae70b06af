import Authentication
import ChunkStores
import Compression
import Control
import Flows
import Interception
import Logging
import NIOCore
import NIOPosix
import Relay
import Sockets
import Tunnel
import Vocabulary

/// Everything of an accelerator that lives on one event loop: its entrance connections, its pools, the tunnels that it accepted.
final class Shard {
  /// Tunnel connections that one loop accepts, those that have not proved the key yet included. 16 peers with four connections each.
  static let maximumAccepted = 64
  /// Applications' connections that one loop holds: 4,096 flows of one peer's four tunnel connections, and as many to targets without a peer. With their
  /// far sides that is 12,288 descriptors.
  static let maximumEntered = 8_192

  let loop: any EventLoop
  var settings: AcceleratorSettings
  let security: TunnelSecurity
  /// The byte cache, shared by all loops; nil for none.
  let store: (any ChunkStore)?
  let effort = CompressionEffort()
  let services: ServiceBook
  var routes: RouteTable
  let dialler: TargetDialler
  let parked: ParkedFlows
  let shares: PacingShares
  let ledger: FlowLedger
  let keepsIdleWindows: Bool
  let report: @Sendable (NodeReport) -> Void
  let logger: Logger
  /// The controller's map, and its routes, which come behind those of the settings.
  var mapped: [NodeID: MappedPeer] = [:]
  var mapRoutes = RouteTable([])
  var pools: [NodeID: TunnelPool] = [:]
  var groups: [NodeID: PacingGroup] = [:]
  var entered = 0
  /// This machine's addresses, and when they were looked up.
  var ownAddresses: (at: NIODeadline, addresses: Set<IPAddress>)?
  /// Flows that went by no tunnel.
  var passed = PassedThrough()
  var accepted: [ObjectIdentifier: TunnelLink] = [:]
  /// The figures of the tunnel connections that have ended.
  var ended = FlowStatistics()
  /// The same for each peer, for the figures that are told.
  var endedByPeer: [NodeID: FlowStatistics] = [:]
  /// Flows that no tunnel took.
  var direct: [ObjectIdentifier: DirectFlow] = [:]
  /// Orders to warm that are at work: one connection of a peer after another, so that each gets the whole rate.
  var warming: [NodeID: WarmRequest] = [:]
  /// Caches that go ahead of machines.
  var fillings: [CacheFilling.Key: CacheFilling] = [:]
  /// Says them again before they have run out (`--keep-warm`).
  var renewal: RepeatedTask?

  init(
    loop: any EventLoop, settings: AcceleratorSettings, security: TunnelSecurity, store: (any ChunkStore)?, services: ServiceBook,
    shares: PacingShares, ledger: FlowLedger,
    report: @escaping @Sendable (NodeReport) -> Void, logger: Logger
  ) {
    self.loop = loop
    self.settings = settings
    self.security = security
    self.store = store
    self.services = services
    self.shares = shares
    self.ledger = ledger
    parked = ParkedFlows(loop: loop)
    keepsIdleWindows = TCPSocket.keepsIdleWindows()
    self.report = report
    self.logger = logger
    routes = RouteTable(settings.routes)
    dialler = TargetDialler(
      loop: loop, limit: settings.entrances.dialLimit, marks: settings.entrances.transparent != nil || settings.entrances.keepsSource,
      logger: logger)
  }

  func start() {
    syncPeers()
  }

  func stop() {
    parked.stop()
    renewal?.cancel()
    for peer in mapped.values { peer.leaving?.cancel() }
    for filling in fillings.values { filling.stop() }
    for pool in pools.values { pool.stop() }
    for link in accepted.values { link.close(TunnelGoodbye(.stopping, "\(settings.node) is being stopped")) }
  }

  /// Connections to this peer, dialled and accepted, that may carry flows.
  func establishedCount(to peer: NodeID) -> Int { groups[peer]?.all.count { $0.isEstablished } ?? 0 }

  var flowCount: Int { groups.values.reduce(0) { $0 + $1.all.reduce(0) { $0 + $1.flowCount } } }

  /// What all flows of this loop came to, ended and living.
  var statistics: FlowStatistics {
    var sum = ended
    for group in groups.values {
      for link in group.all { sum += link.statistics }
    }
    return sum
  }

  /// For tests: ends every tunnel connection as a network that forgets them does.
  func cutTunnels() {
    for group in groups.values {
      for link in group.all { link.abort() }
    }
  }
}
