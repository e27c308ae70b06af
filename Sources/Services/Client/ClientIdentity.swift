import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// Which installation a client is, so that an agent knows the dead session of one that has come back.
///
/// Two clients that live at the same time must never be taken for one, and all may have the same default name; but on one machine no two of them listen on the same
/// entrances. So it is the machine's identity (machine-id(5)), the node's name and the entrances. Without a machine-id there is none, and nothing is freed early.
enum ClientIdentity {
  private static let file = "/etc/machine-id"
  /// machine-id(5): 32 hexadecimal digits.
  private static let digits = 32
  /// A client with a thousand forwards is cut here; what remains still holds its first ones.
  static let maximumOctets = 1_024

  static func octets(_ settings: ClientSettings) -> [UInt8] {
    guard let text = try? String(contentsOfFile: file, encoding: .utf8) else { return [] }
    let machine = text.prefix { !$0.isWhitespace }
    guard machine.count == digits else { return [] }
    let forwards = settings.forwards.map { "\(Endpoint(address: $0.address, port: $0.ports.lowerBound))" }
    let entrances = [settings.socks, settings.httpConnect].map { $0.map(\.description) ?? "-" } + forwards
    return Array(([String(machine), settings.node?.text ?? "client"] + entrances).joined(separator: "\n").utf8.prefix(maximumOctets))
  }
}
