import Vocabulary

/// What makes Linux hand the connections that pass through this machine to a transparent entrance, and hand the answers to addresses that are not its own to the sockets that have bound them.
///
/// Only a connection's first SYN is ever taken: a connection that was under way before the entrance listened, or that began while it did not, passes on untouched. And
/// nft's `tproxy` matches only while somebody listens there, so that an entrance that has died lets connections pass (fail-to-wire) without anybody's doing.
package struct InterceptionRules: Sendable, Hashable {
  package enum Family: String, Sendable {
    case v4 = "ip"
    case v6 = "ip6"
  }

  /// "LH": packets with this mark belong to a socket here, whatever their address says.
  package static let divertMark: UInt32 = 0x4c48
  /// Packets of the accelerator's own connections to targets: never taken in again.
  package static let ownMark: UInt32 = 0x4c49
  /// The routing table that leads marked packets to this machine, and the place of the rule that names it: before `main` (32766).
  package static let routingTable = 19_528  // 0x4c48
  /// The nft table; the family's name stands before it.
  package static let table = "longhaul"

  package var family: Family
  /// Where the entrance listens; nil for an accelerator that only dials with its clients' addresses.
  package var listener: Endpoint?
  /// Connections that come in here are taken.
  package var interfaces: [String]
  /// Targets whose connections are taken; empty: all.
  package var prefixes: [IPPrefix]

  package init(family: Family, listener: Endpoint?, interfaces: [String], prefixes: [IPPrefix]) {
    self.family = family
    self.listener = listener
    self.interfaces = interfaces
    self.prefixes = prefixes
  }

  /// IFNAMSIZ is 16 with its end; Linux forbids "/" and spaces, and quotes would end nft's word.
  package static func isInterface(_ name: String) -> Bool {
    (1...15).contains(name.utf8.count)
      && name.utf8.allSatisfy { $0 > 32 && $0 < 127 && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "\"") }
      && name != "." && name != ".."
  }

  /// For `nft -f -`: replaces what an earlier call made, in one step.
  package var ruleset: String {
    var lines = [
      "table \(family.rawValue) \(InterceptionRules.table)",
      "delete table \(family.rawValue) \(InterceptionRules.table)",
      "table \(family.rawValue) \(InterceptionRules.table) {",
      "  counter diverted {",
      "  }",
      "  counter intercepted {",
      "  }",
      "  chain divert {",
      "    type filter hook prerouting priority mangle; policy accept;",
      "    meta mark \(InterceptionRules.ownMark) return",
      "    meta l4proto tcp socket transparent 1 meta mark set \(InterceptionRules.divertMark) counter name diverted accept",
    ]
    if let listener {
      var rule = "iifname { \(interfaces.map { "\"\($0)\"" }.joined(separator: ", ")) } tcp flags & (fin | syn | rst | ack) == syn"
      if !prefixes.isEmpty { rule += " \(family.rawValue) daddr { \(prefixes.map(\.description).joined(separator: ", ")) }" }
      // Connections to this machine itself (tunnels, ssh, the entrances) stay what they are.
      rule += " fib daddr type != { local, broadcast, multicast }"
      let place = family == .v6 ? "[\(listener.address)]:\(listener.port)" : "\(listener.address):\(listener.port)"
      lines.append("    \(rule) tproxy to \(place) meta mark set \(InterceptionRules.divertMark) counter name intercepted accept")
    }
    // On lines of their own: nft takes two closing braces on one line for an error.
    return (lines + ["  }", "}"]).joined(separator: "\n") + "\n"
  }

  /// Marked packets are this machine's, whatever their address says.
  package var routing: [[String]] {
    [ip("rule", "add") + rule, ip("route", "replace", "local", "default", "dev", "lo", "table", "\(InterceptionRules.routingTable)")]
  }

  /// What takes `ruleset` and `routing` back; each fails where there is nothing to take back, which is no error.
  package var removal: (ruleset: String, routing: [[String]]) {
    (
      "table \(family.rawValue) \(InterceptionRules.table)\ndelete table \(family.rawValue) \(InterceptionRules.table)\n",
      [ip("rule", "del") + rule, ip("route", "flush", "table", "\(InterceptionRules.routingTable)")]
    )
  }

  private func ip(_ words: String...) -> [String] { ["ip", family == .v6 ? "-6" : "-4"] + words }

  private var rule: [String] {
    [
      "pref", "\(InterceptionRules.routingTable)", "fwmark", "\(InterceptionRules.divertMark)", "lookup",
      "\(InterceptionRules.routingTable)",
    ]
  }
}

extension InterceptionRules {
  /// The same as `install` or `remove`, for a shell.
  package func script(removing: Bool) -> String {
    let ruleset = removing ? removal.ruleset : self.ruleset
    var lines = ["nft -f - <<'RULES'", String(ruleset.dropLast()), "RULES"]
    lines += removal.routing.map { "\($0.joined(separator: " ")) 2>/dev/null || true" }
    if !removing { lines += routing.map { $0.joined(separator: " ") } }
    return lines.joined(separator: "\n") + "\n"
  }

  /// In this program's network namespace, or in another one. Installing again replaces.
  package func install(in namespace: Namespace? = nil) throws {
    try remove(in: namespace)
    try Shell.run(InterceptionRules.words(["nft", "-f", "-"], in: namespace), input: ruleset)
    for command in routing { try Shell.run(InterceptionRules.words(command, in: namespace)) }
  }

  package func remove(in namespace: Namespace? = nil) throws {
    try Shell.run(InterceptionRules.words(["nft", "-f", "-"], in: namespace), input: removal.ruleset)
    for command in removal.routing { _ = try? Shell.run(InterceptionRules.words(command, in: namespace)) }
  }

  /// Packets that one of the counters has seen: `intercepted` counts connections, `diverted` all their later packets.
  package func packets(_ counter: String, in namespace: Namespace? = nil) throws -> Int {
    let listing = try Shell.run(
      InterceptionRules.words(["nft", "list", "counter", family.rawValue, InterceptionRules.table, counter], in: namespace))
    let words = listing.split(whereSeparator: \.isWhitespace)
    return words.firstIndex(of: "packets").flatMap { words.indices.contains($0 + 1) ? Int(words[$0 + 1]) : nil } ?? 0
  }

  private static func words(_ command: [String], in namespace: Namespace?) -> [String] { namespace?.command(command) ?? command }
}
