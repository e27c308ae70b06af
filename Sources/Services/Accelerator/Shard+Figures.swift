import Compression
import Flows
import NIOCore
import Telemetry
import Tunnel
import Vocabulary

/// What one event loop has to tell, at one moment.
struct ShardFigures: Sendable {
  struct Peer: Sendable {
    /// Ended connections included.
    var octets = FlowStatistics()
    var connections = 0
    var flows = 0
    var congestionWindow = 0
    var retransmittedSegments = 0
    var roundTrip: TimeSpan?

    static func += (a: inout Peer, b: Peer) {
      a.octets += b.octets
      a.connections += b.connections
      a.flows += b.flows
      a.congestionWindow += b.congestionWindow
      a.retransmittedSegments += b.retransmittedSegments
      if let roundTrip = b.roundTrip { a.roundTrip = a.roundTrip.map { min($0, roundTrip) } ?? roundTrip }
    }
  }

  var peers: [NodeID: Peer] = [:]
  var passed = PassedThrough()
  var entered = 0

  static func += (a: inout ShardFigures, b: ShardFigures) {
    for (name, peer) in b.peers { a.peers[name, default: Peer()] += peer }
    a.passed += b.passed
    a.entered += b.entered
  }
}

extension Shard {
  /// Names come from peers that have proved who they are; the figures of what is beyond go to one more name.
  static let maximumPeersTold = 64
  static let otherPeers = NodeID("others")

  /// A peer's connection has ended: its octets are kept.
  func keep(_ statistics: FlowStatistics, of peer: NodeID) {
    let isKnown = endedByPeer[peer] != nil || endedByPeer.count < Shard.maximumPeersTold
    endedByPeer[isKnown ? peer : Shard.otherPeers, default: FlowStatistics()] += statistics
  }

  var figures: ShardFigures {
    var figures = ShardFigures()
    figures.passed = passed
    figures.entered = entered
    for pool in pools.values { figures.peers[pool.peer.node] = ShardFigures.Peer() }
    for (peer, octets) in endedByPeer { figures.peers[peer, default: ShardFigures.Peer()].octets += octets }
    for (name, group) in groups {
      let isTold = figures.peers[name] != nil || figures.peers.count < Shard.maximumPeersTold
      for link in group.all {
        let state = link.tcpState()
        var peer = ShardFigures.Peer()
        peer.octets = link.statistics
        peer.connections = link.isEstablished ? 1 : 0
        peer.flows = link.flowCount
        peer.congestionWindow = state?.congestionWindow ?? 0
        peer.retransmittedSegments = Int(state?.retransmittedSegments ?? 0)
        peer.roundTrip = link.roundTrip
        figures.peers[isTold ? name : Shard.otherPeers, default: ShardFigures.Peer()] += peer
      }
    }
    return figures
  }

  /// The flows of this loop's tunnels, those that are being opened included.
  var flowRows: [FlowsDocument.Row] {
    let now = TunnelLink.now()
    return groups.flatMap { peer, group in
      group.all.flatMap { link in
        link.livingFlows.map { flow in
          let octets = flow.codec.statistics
          return FlowsDocument.Row(
            peer: peer.text, isOpener: link.setup.role == .dialler, target: "\(flow.target)",
            source: flow.terms.source.map { "\($0)" }, tenant: flow.terms.tenant, class: "\(flow.terms.priority)",
            ageSeconds: (now - flow.since).seconds, sentOctets: octets.plainSent, sentWireOctets: octets.wireSent,
            receivedOctets: octets.plainReceived, receivedWireOctets: octets.wireReceived,
            state: flow.hasSentEnd || flow.hasReceivedEnd ? "ending" : "open")
        }
      }
    } + directRows(now)
  }

  private func directRows(_ now: Instant) -> [FlowsDocument.Row] {
    direct.values.map { flow in
      FlowsDocument.Row(
        peer: nil, isOpener: true, target: "\(flow.request.target)", source: flow.request.source.map { "\($0)" },
        tenant: flow.request.tenant, class: "\(flow.request.priority)", ageSeconds: (now - flow.since).seconds,
        sentOctets: flow.near.octetsRead, sentWireOctets: flow.near.octetsRead, receivedOctets: flow.far.octetsRead,
        receivedWireOctets: flow.far.octetsRead, state: "direct", passed: flow.reason.rawValue)
    }
  }

  /// A flow that no tunnel took, until its application's socket closes.
  struct DirectFlow {
    var request: FlowRequest
    var reason: PassReason
    var since: Instant
    var near: SplitRelay
    var far: SplitRelay
  }

  func noteDirect(_ request: FlowRequest, _ reason: PassReason, _ channel: any Channel, _ relays: (near: SplitRelay, far: SplitRelay)) {
    let id = ObjectIdentifier(relays.near)
    direct[id] = DirectFlow(request: request, reason: reason, since: TunnelLink.now(), near: relays.near, far: relays.far)
    channel.closeFuture.assumeIsolated().whenComplete { [weak self] _ in self?.direct[id] = nil }
  }
}

extension TunnelLink {
  /// Those that only wait for a chunk to be asked for again are over.
  fileprivate var livingFlows: [LinkFlow] { flows.values.filter { !$0.isOver } }
}
