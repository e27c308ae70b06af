import ChunkStores
import Flows
import Telemetry
import Vocabulary

/// All that an accelerator tells of itself, at one moment; its page for Prometheus.
struct AcceleratorFigures: Sendable {
  var node: NodeID
  var version: String
  var uptime: TimeSpan
  var isDraining: Bool
  var loops: ShardFigures
  var accounts: [(tenant: String, figures: TenantAccount.Figures)]
  var grantedOctets: Int
  /// Octets a second of each peer over the last interval: sent and received, as applications see them and on the WAN.
  var rates: [NodeID: FigureRates.Rates]
  var store: ChunkStoreFigures?
  var process: ProcessFigures

  var page: String {
    var page = MetricsPage()
    addPeers(to: &page)
    addFlows(to: &page)
    addStore(to: &page)
    addProcess(to: &page)
    return page.text
  }

  private func addPeers(to page: inout MetricsPage) {
    let peers = loops.peers.sorted { $0.key < $1.key }.map { (name: $0.key, figures: $0.value) }
    func samples(_ value: (ShardFigures.Peer) -> Int) -> [MetricsPage.Sample] {
      peers.map { .init(value($0.figures), ("peer", $0.name.text)) }
    }
    page.add(
      MetricName("longhaul_peer_sent_octets_total"), .counter, "Octets of applications that went to the peer.", samples(\.octets.plainSent))
    page.add(
      MetricName("longhaul_peer_sent_wire_octets_total"), .counter, "What they were on the WAN.", samples(\.octets.wireSent))
    page.add(
      MetricName("longhaul_peer_received_octets_total"), .counter, "Octets for applications that came from the peer.",
      samples(\.octets.plainReceived))
    page.add(
      MetricName("longhaul_peer_received_wire_octets_total"), .counter, "What they were on the WAN.", samples(\.octets.wireReceived))
    page.add(
      MetricName("longhaul_peer_referenced_sent_octets_total"), .counter, "Of the octets sent, those that went as names of chunks.",
      samples(\.octets.referencedSent))
    page.add(
      MetricName("longhaul_peer_referenced_received_octets_total"), .counter, "Of the octets received, those that came as names of chunks.",
      samples(\.octets.referencedReceived))
    page.add(
      MetricName("longhaul_peer_missing_sent_chunks_total"), .counter, "Chunks that the peer lacked and was sent after all.",
      samples(\.octets.missingSent))
    page.add(
      MetricName("longhaul_peer_missing_received_chunks_total"), .counter, "Chunks that this end lacked.", samples(\.octets.missingReceived)
    )
    page.add(
      MetricName("longhaul_peer_reduction_ratio"), .gauge,
      "The part of applications' octets, both directions, that did not cross the WAN, since the start.",
      peers.compactMap { peer in
        let octets = peer.figures.octets
        let plain = octets.plainSent + octets.plainReceived
        guard plain > 0 else { return nil }
        return .init(1 - Double(octets.wireSent + octets.wireReceived) / Double(plain), ("peer", peer.name.text))
      })
    page.add(
      MetricName("longhaul_peer_rate_octets_per_second"), .gauge, "The rate over the last interval, as applications see it and on the WAN.",
      rates.sorted { $0.key < $1.key }.flatMap { peer, rates in
        [
          MetricsPage.Sample(rates.sent, ("peer", peer.text), ("direction", "sent"), ("side", "application")),
          MetricsPage.Sample(rates.sentWire, ("peer", peer.text), ("direction", "sent"), ("side", "wan")),
          MetricsPage.Sample(rates.received, ("peer", peer.text), ("direction", "received"), ("side", "application")),
          MetricsPage.Sample(rates.receivedWire, ("peer", peer.text), ("direction", "received"), ("side", "wan")),
        ]
      })
    page.add(MetricName("longhaul_peer_tunnel_connections"), .gauge, "Tunnel connections that stand.", samples(\.connections))
    page.add(MetricName("longhaul_peer_flows"), .gauge, "Flows that live in tunnels with the peer.", samples(\.flows))
    page.add(
      MetricName("longhaul_peer_congestion_window_octets"), .gauge, "The congestion windows of all connections together.",
      samples(\.congestionWindow))
    page.add(
      MetricName("longhaul_peer_retransmitted_segments"), .gauge, "Segments sent again on the connections that stand.",
      samples(\.retransmittedSegments))
    page.add(
      MetricName("longhaul_peer_round_trip_seconds"), .gauge, "The shortest round trip that a connection measured last.",
      peers.compactMap { peer in peer.figures.roundTrip.map { .init($0.seconds, ("peer", peer.name.text)) } })
  }

  private func addFlows(to page: inout MetricsPage) {
    page.add(
      MetricName("longhaul_tenant_flows"), .gauge, "Flows that live, those without a tunnel included.",
      accounts.map { .init($0.figures.flows, ("tenant", $0.tenant)) })
    page.add(
      MetricName("longhaul_tenant_opened_flows_total"), .counter, "Flows whose target was connected.",
      accounts.map { .init($0.figures.opened, ("tenant", $0.tenant)) })
    page.add(
      MetricName("longhaul_tenant_refused_flows_total"), .counter, "Flows that were refused, by reason.",
      accounts.flatMap { account in
        account.figures.refused.sorted { "\($0.key)" < "\($1.key)" }.map {
          MetricsPage.Sample($0.value, ("tenant", account.tenant), ("reason", "\($0.key)"))
        }
      })
    page.add(
      MetricName("longhaul_passed_flows_total"), .counter, "Flows that no tunnel took, by reason.",
      PassReason.allCases.map { .init(loops.passed[$0], ("reason", $0.rawValue)) })
    page.add(
      MetricName("longhaul_passed_refused_flows_total"), .counter, "Of them, those that were refused and did not go directly.",
      [.init(loops.passed.refused)])
    page.add(MetricName("longhaul_entrance_connections"), .gauge, "Applications' connections that are open.", [.init(loops.entered)])
    page.add(MetricName("longhaul_granted_window_octets"), .gauge, "The windows of all flows together.", [.init(grantedOctets)])
  }

  private func addStore(to page: inout MetricsPage) {
    guard let store else { return }
    page.add(MetricName("longhaul_cache_chunks"), .gauge, "Chunks in the byte cache.", [.init(store.chunks)])
    page.add(MetricName("longhaul_cache_octets"), .gauge, "Octets in the byte cache.", [.init(store.octets)])
    page.add(
      MetricName("longhaul_cache_lookups_total"), .counter, "Chunks that were asked for.",
      [.init(store.hits, ("result", "hit")), .init(store.misses, ("result", "miss"))])
    page.add(
      MetricName("longhaul_cache_dropped_chunks_total"), .counter, "Chunks that the disk did not follow with.", [.init(store.dropped)])
    page.add(MetricName("longhaul_cache_evicted_chunks_total"), .counter, "Chunks that gave way to others.", [.init(store.evicted)])
    page.add(MetricName("longhaul_cache_damaged_chunks_total"), .counter, "Chunks found damaged and forgotten.", [.init(store.damaged)])
  }

  private func addProcess(to page: inout MetricsPage) {
    page.add(
      MetricName("longhaul_draining"), .gauge, "1 while living flows are let end and nothing new is taken in.", [.init(isDraining ? 1 : 0)])
    page.add(MetricName("longhaul_uptime_seconds"), .gauge, "Since the service began.", [.init(uptime.seconds)])
    page.add(MetricName("longhaul_resident_memory_octets"), .gauge, "Memory that the process holds.", [.init(process.residentOctets)])
    page.add(MetricName("longhaul_open_descriptors"), .gauge, "Descriptors that the process has open.", [.init(process.openDescriptors)])
    page.add(
      MetricName("longhaul_build_info"), .gauge, "The program's version.", [.init(1, ("version", version), ("node", node.text))])
  }
}

/// Rates between two looks at counters.
struct FigureRates: Sendable {
  struct Rates: Sendable {
    var sent = 0.0
    var sentWire = 0.0
    var received = 0.0
    var receivedWire = 0.0
  }

  /// Two scrapers that ask at once see the same interval.
  static let shortest = TimeSpan.seconds(Int64(1))

  private var last: (at: Instant, peers: [NodeID: ShardFigures.Peer])?
  private(set) var rates: [NodeID: Rates] = [:]

  /// The rates since the last look, if that was at least a second ago; else those found then.
  mutating func update(_ peers: [NodeID: ShardFigures.Peer], at now: Instant) -> [NodeID: Rates] {
    guard let before = last else {
      last = (now, peers)
      return rates
    }
    guard now - before.at >= FigureRates.shortest else { return rates }
    let seconds = (now - before.at).seconds
    rates = peers.mapValues { _ in Rates() }
    for (name, peer) in peers {
      let old = before.peers[name]?.octets
      func rate(_ octets: Int, _ former: Int?) -> Double { Double(max(octets - (former ?? 0), 0)) / seconds }
      rates[name] = Rates(
        sent: rate(peer.octets.plainSent, old?.plainSent), sentWire: rate(peer.octets.wireSent, old?.wireSent),
        received: rate(peer.octets.plainReceived, old?.plainReceived), receivedWire: rate(peer.octets.wireReceived, old?.wireReceived))
    }
    last = (now, peers)
    return rates
  }
}
