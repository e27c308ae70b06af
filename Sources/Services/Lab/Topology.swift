import LinuxNetwork
import Vocabulary
import WANEmulation

/// The paper's Figure 4 in network namespaces.
///
/// ```
///   pc 10.0.1.2 ─┐                        ┌─ WAN 1 ── center1 10.1.0.1 ─┬─ guest IP3 10.1.0.3 (tap)
///                ├─ access 10.0.1.1 ──────┤               │             └─ control 10.1.0.6
///   acca 10.0.1.3┘                        │               │ inter-center link: migration, NAS, orders
///                                         └─ WAN 2 ── center2 10.2.0.1 ─┬─ guest IP4 10.2.0.4 (tap)
///                                                         │             └─ accb 10.2.0.5
///                                                        nas 10.99.1.2
/// ```
/// Clients reach Center 1 over WAN 1 only and Center 2 over WAN 2 only. The inter-center link has no emulated delay: what crosses it (QEMU's migration stream, the
/// NAS, the controller's orders to Center 2) is not under test.
struct Topology: Sendable {
  static func space(_ name: String) -> Namespace { Namespace(RunFolder.namespacePrefix + name) }

  static let pc = space("pc")
  static let access = space("access")
  static let acceleratorA = space("acca")
  static let center1 = space("center1")
  static let center2 = space("center2")
  static let acceleratorB = space("accb")
  static let control = space("control")
  static let nas = space("nas")
  static let all = [pc, access, acceleratorA, center1, center2, acceleratorB, control, nas]

  static let pcAddress = "10.0.1.2"
  static let acceleratorAAddress = "10.0.1.3"
  static let guestAtCenter1 = "10.1.0.3"
  static let guestAtCenter2 = "10.2.0.4"
  static let acceleratorBAddress = "10.2.0.5"
  static let controlAddress = "10.1.0.6"
  static let nasAddress = "10.99.1.2"
  static let migrationAddress = "10.99.0.2"
  static let tap = "tap0"

  private let emulator: WANEmulator

  /// Makes the namespaces, the links between them, and the WAN, which carries packets when this returns.
  init(_ settings: LabSettings) throws(LabError) {
    do {
      for space in Topology.all { try space.create() }
      try Topology.buildSites()
      // Endpoints that never offer window scaling have windows of 65,535 octets at most (RFC 7323 section 2): the paper's, to the octet.
      if let window = settings.endpointWindow, window <= 65_536 { try Topology.pc.set(["net.ipv4.tcp_window_scaling": "0"]) }
      emulator = try WANEmulator([
        Topology.link(1, to: Topology.center1, roundTrip: settings.roundTripBefore, settings),
        Topology.link(2, to: Topology.center2, roundTrip: settings.roundTripAfter, settings),
      ])
      try Topology.buildRoutes()
    } catch {
      throw .network("\(error)")
    }
  }

  private static func link(_ number: Int, to center: Namespace, roundTrip: TimeSpan, _ settings: LabSettings) -> LinkSettings {
    LinkSettings(
      name: "WAN \(number)", a: LinkSettings.End(namespace: access.name, device: "wan\(number)"),
      z: LinkSettings.End(namespace: center.name, device: "wan0"), delay: roundTrip / 2, rate: settings.rate, queue: settings.queue,
      loss: settings.loss, seed: settings.seed &* 2 &+ UInt64(number))
  }

  private static func buildSites() throws {
    try access.addBridge("br0", address: "10.0.1.1/24")
    try access.attach(pc, address: "\(pcAddress)/24", bridge: "br0", gateway: "10.0.1.1", port: "pc")
    try access.attach(acceleratorA, address: "\(acceleratorAAddress)/24", bridge: "br0", gateway: "10.0.1.1", port: "acca")
    try center1.addBridge("br0", address: "10.1.0.1/24")
    try center1.attach(control, address: "\(controlAddress)/24", bridge: "br0", gateway: "10.1.0.1", port: "control")
    try center1.addTap(tap, on: "br0")
    try center2.addBridge("br0", address: "10.2.0.1/24")
    try center2.attach(acceleratorB, address: "\(acceleratorBAddress)/24", bridge: "br0", gateway: "10.2.0.1", port: "accb")
    try center2.addTap(tap, on: "br0")
    try Namespace.connect((center1, "inter", "10.99.0.1/30"), (center2, "inter", "\(migrationAddress)/30"))
    try Namespace.connect((center2, "nas", "10.99.1.1/30"), (nas, "eth0", "\(nasAddress)/30"))
    try nas.ip("route", "add", "default", "via", "10.99.1.1")
    for (host, gateway) in [(acceleratorA, "10.0.1.1"), (acceleratorB, "10.2.0.1")] { try tune(host, gateway: gateway) }
    // What a kernel that nobody has tuned gives its sockets, said explicitly since this machine's may differ.
    try pc.set(["net.ipv4.tcp_rmem": "4096 131072 6291456", "net.ipv4.tcp_wmem": "4096 16384 4194304"])
  }

  /// Sets a host up for an accelerator.
  static func tune(_ host: Namespace, gateway: String) throws {
    // The recipe of docs/operations/accelerator.md: with pacing, connections of accelerators may begin with 1,000 segments (1.4 MB).
    try host.ip("route", "replace", "default", "via", gateway, "initcwnd", "1000", "initrwnd", "1000")
    // The receive buffer's first size (2 MiB) lets initrwnd have its say. 2 x 1 Gbit/s x 500 ms / 8 = 125 MB, which an accelerator may need; and its tunnels stay warm over pauses.
    try host.set([
      "net.ipv4.tcp_rmem": "4096 2097152 134217728", "net.ipv4.tcp_wmem": "4096 16384 134217728",
      "net.ipv4.tcp_slow_start_after_idle": "0",
    ])
  }

  private static func buildRoutes() throws {
    for (number, center) in [(1, center1), (2, center2)] {
      try access.ip("addr", "add", "10.8.\(number).1/30", "dev", "wan\(number)")
      try access.ip("link", "set", "wan\(number)", "up")
      try center.ip("addr", "add", "10.8.\(number).2/30", "dev", "wan0")
      try center.ip("link", "set", "wan0", "up")
      try access.ip("route", "add", "10.\(number).0.0/24", "via", "10.8.\(number).2")
      try center.ip("route", "add", "10.0.1.0/24", "via", "10.8.\(number).1")
    }
    try center1.ip("route", "add", "10.2.0.0/24", "via", "10.99.0.2")
    try center1.ip("route", "add", "10.99.1.0/30", "via", "10.99.0.2")
    try center2.ip("route", "add", "10.1.0.0/24", "via", "10.99.0.1")
  }

  /// Ends the WAN and says what it did. The namespaces go with the run folder.
  func stop() -> [LinkReport] { emulator.stop() }
}
