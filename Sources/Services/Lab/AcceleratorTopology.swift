import LinuxNetwork
import Vocabulary
import WANEmulation

/// Two sites and one WAN between them.
///
/// ```
///   client    10.0.1.2 ─┐                                        ┌─ acca's peer accb 10.2.0.5
///   client64  10.0.1.3 ─┼─ edge1 10.0.1.1 ── WAN ── 10.2.0.1 edge2 ─┼─ hopb 10.2.0.6
///   acca      10.0.1.5 ─┤                                        └─ server 10.2.0.9
///   hopa      10.0.1.6 ─┘
/// ```
/// Longhaul's accelerators run in acca and accb, the other relays in hopa and hopb. Applications are threads of the bench whose sockets are in client, client64 and server.
struct AcceleratorTopology: Sendable {
  static let edge1 = Topology.space("edge1")
  static let edge2 = Topology.space("edge2")
  static let client = Topology.space("client")
  /// Endpoints that never offer window scaling: their windows are 65,535 octets at most (RFC 7323 section 2).
  static let narrowClient = Topology.space("client64")
  static let acceleratorA = Topology.space("acca")
  static let acceleratorB = Topology.space("accb")
  static let hopA = Topology.space("hopa")
  static let hopB = Topology.space("hopb")
  static let server = Topology.space("server")

  static let acceleratorAAddress = "10.0.1.5"
  static let acceleratorBAddress = "10.2.0.5"
  static let hopAAddress = "10.0.1.6"
  static let hopBAddress = "10.2.0.6"
  static let serverAddress = "10.2.0.9"
  static let serverPrefix = "10.2.0.0/24"

  private static let hosts = [
    (client, "10.0.1.2", edge1), (narrowClient, "10.0.1.3", edge1), (acceleratorA, acceleratorAAddress, edge1), (hopA, hopAAddress, edge1),
    (acceleratorB, acceleratorBAddress, edge2), (hopB, hopBAddress, edge2), (server, serverAddress, edge2),
  ]
  /// What a kernel that nobody has tuned gives its sockets, said explicitly since this machine's may differ.
  private static let ordinary = ["net.ipv4.tcp_rmem": "4096 131072 6291456", "net.ipv4.tcp_wmem": "4096 16384 4194304"]
  /// 64 MB: 1 Gbit/s x 500 ms / 8, what an operator who has read a tuning guide gives a relay.
  private static let large = ["net.ipv4.tcp_rmem": "4096 131072 67108864", "net.ipv4.tcp_wmem": "4096 16384 67108864"]

  private let emulator: WANEmulator

  init(rate: BitRate, roundTrip: TimeSpan, loss: Double, seed: UInt64) throws(LabError) {
    var settings = LabSettings()
    settings.rate = rate
    do {
      for (space, gateway) in [(Self.edge1, "10.0.1.1"), (Self.edge2, "10.2.0.1")] {
        try space.create()
        try space.addBridge("br0", address: "\(gateway)/24")
      }
      for (space, address, edge) in Self.hosts {
        try space.create()
        let gateway = edge == Self.edge1 ? "10.0.1.1" : "10.2.0.1"
        try edge.attach(space, address: "\(address)/24", bridge: "br0", gateway: gateway, port: String(space.name.suffix(8)))
        if space == Self.acceleratorA || space == Self.acceleratorB {
          try Topology.tune(space, gateway: gateway)
        } else {
          try space.set(space == Self.hopA || space == Self.hopB ? Self.large : Self.ordinary)
        }
      }
      try Self.narrowClient.set(["net.ipv4.tcp_window_scaling": "0"])
      emulator = try WANEmulator([
        LinkSettings(
          name: "WAN", a: LinkSettings.End(namespace: Self.edge1.name, device: "wan0"),
          z: LinkSettings.End(namespace: Self.edge2.name, device: "wan0"), delay: roundTrip / 2, rate: rate, queue: settings.queue,
          loss: loss, seed: seed)
      ])
      for (space, address, far, via) in [
        (Self.edge1, "10.8.1.1", "10.2.0.0/24", "10.8.1.2"), (Self.edge2, "10.8.1.2", "10.0.1.0/24", "10.8.1.1"),
      ] {
        try space.ip("addr", "add", "\(address)/30", "dev", "wan0")
        try space.ip("link", "set", "wan0", "up")
        try space.ip("route", "add", far, "via", via)
      }
    } catch {
      throw .network("\(error)")
    }
  }

  /// What has gone over the WAN so far, as on a wire.
  var octets: (up: Int, down: Int) { emulator.octets.first.map { ($0.aToZ, $0.zToA) } ?? (0, 0) }

  /// What one connection's losses have taught a kernel (its slow start threshold) does not hold for the next one: every transfer begins as if it were the first.
  func forgetMetrics() throws(LabError) {
    do {
      for (space, _, _) in Self.hosts { try Shell.run(["ip", "-n", space.name, "tcp_metrics", "flush"]) }
    } catch {
      throw .network("\(error)")
    }
  }

  /// Waits until the WAN carries next to nothing (what a stopped transfer has left under way, padding), but no longer than the limit.
  func waitUntilQuiet(limit: TimeSpan) async throws {
    let deadline = ContinuousClock.now + .nanoseconds(limit.nanoseconds)
    var last = octets
    var quiet = 0
    while quiet < 3, ContinuousClock.now < deadline {
      try await Task.sleep(for: .milliseconds(50))
      let now = octets
      // 4 KB in 50 ms are 0.6 Mbit/s: what keeps connections alive is less.
      quiet = now.up + now.down - last.up - last.down < 4_096 ? quiet + 1 : 0
      last = now
    }
  }

  /// Ends the WAN and says what it did. The namespaces go with the run folder.
  func stop() -> [LinkReport] { emulator.stop() }
}
