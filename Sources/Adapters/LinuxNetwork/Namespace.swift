import Foundation
import Vocabulary

/// A network namespace that we made.
package struct Namespace: Sendable, Hashable, CustomStringConvertible {
  package let name: String
  package init(_ name: String) { self.name = name }
  package var description: String { name }
  package var path: String { "/run/netns/\(name)" }

  /// Makes it, with its loopback up, forwarding on and IPv6 off.
  package func create() throws {
    try Shell.run(["ip", "netns", "add", name])
    try ip("link", "set", "lo", "up")
    try set(["net.ipv4.ip_forward": "1", "net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"])
  }

  /// Ends what runs in it, by pid, and removes it. A namespace that is not there is no error.
  package func delete() {
    guard FileManager.default.fileExists(atPath: path) else { return }
    for pid in processes { kill(pid, SIGKILL) }
    _ = try? Shell.run(["ip", "netns", "del", name])
  }

  package var processes: [pid_t] {
    let text = (try? Shell.run(["ip", "netns", "pids", name])) ?? ""
    return text.split(separator: "\n").compactMap { pid_t($0) }
  }

  /// All whose names begin so.
  package static func all(prefix: String) -> [Namespace] {
    let names = (try? FileManager.default.contentsOfDirectory(atPath: "/run/netns")) ?? []
    return names.filter { $0.hasPrefix(prefix) }.sorted().map { Namespace($0) }
  }

  /// The command line that runs a program in it. `ip netns exec` becomes the program, so its pid is the program's.
  package func command(_ words: [String]) -> [String] { ["ip", "netns", "exec", name] + words }

  package func ip(_ words: String...) throws { try Shell.run(["ip", "-n", name] + words) }

  package func set(_ values: [String: String]) throws {
    try Shell.run(command(["sysctl", "-qw"] + values.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }))
  }

  /// A bridge that is also the gateway of its network.
  package func addBridge(_ bridge: String, address: String) throws {
    try ip("link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0")
    try ip("addr", "add", address, "dev", bridge)
    try ip("link", "set", bridge, "up")
  }

  /// A tap device for a hypervisor, on a bridge.
  package func addTap(_ tap: String, on bridge: String) throws {
    try ip("tuntap", "add", tap, "mode", "tap")
    try ip("link", "set", tap, "master", bridge)
    try ip("link", "set", tap, "up")
  }

  /// A cable between two namespaces: each end has a name and, unless it goes onto a bridge, an address.
  package static func connect(_ a: (Namespace, device: String, address: String), _ z: (Namespace, device: String, address: String)) throws {
    try Shell.run(["ip", "link", "add", a.device, "netns", a.0.name, "type", "veth", "peer", "name", z.device, "netns", z.0.name])
    for end in [a, z] {
      try end.0.ip("addr", "add", end.address, "dev", end.device)
      try end.0.ip("link", "set", end.device, "up")
    }
  }

  /// A host on a bridge of this namespace, which is its default gateway.
  package func attach(_ host: Namespace, address: String, bridge: String, gateway: String, port: String) throws {
    try Shell.run(["ip", "link", "add", "eth0", "netns", host.name, "type", "veth", "peer", "name", port, "netns", name])
    try ip("link", "set", port, "master", bridge)
    try ip("link", "set", port, "up")
    try host.ip("addr", "add", address, "dev", "eth0")
    try host.ip("link", "set", "eth0", "up")
    try host.ip("route", "add", "default", "via", gateway)
  }
}
