/// What a certificate says a node is. The three that register with a controller, the controller itself, a person, and the CA's own endpoint.
package enum CertificateRole: String, Codable, Sendable, CaseIterable, Comparable {
  case agent, client, accelerator, controller
  /// A person's tools.
  case `operator`
  /// The enrolment endpoint of the CA: made by `longhaul pki serve` for itself, so that no other node can pose as it.
  case authority

  package static func < (a: Self, b: Self) -> Bool { a.rawValue < b.rawValue }

  /// `an agent`, `a client`.
  package var withArticle: String {
    switch self {
    case .agent, .accelerator, .operator, .authority: "an \(rawValue)"
    case .client, .controller: "a \(rawValue)"
    }
  }
}

/// Who a node is, as its certificate says: `longhaul://agent/vm1` among the subject's alternative names (RFC 5280 section 4.2.1.6).
package struct NodeName: Hashable, Sendable, Comparable, CustomStringConvertible {
  /// 63: a label of the DNS (RFC 1035 section 2.3.4), so that any name of a machine fits.
  package static let maximumOctets = 63
  package static let rule = "1 to 63 letters, digits, dots, hyphens and underscores, a letter or digit first"
  private static let scheme = "longhaul://"

  package let role: CertificateRole
  package let name: String

  /// Nil unless the name keeps the rule: it stands in URIs, logs and paths.
  package init?(role: CertificateRole, name: some StringProtocol) {
    let octets = name.utf8
    func isAlphanumeric(_ octet: UInt8) -> Bool {
      (48...57).contains(octet) || (65...90).contains(octet) || (97...122).contains(octet)
    }
    guard (1...NodeName.maximumOctets).contains(octets.count), let first = octets.first, isAlphanumeric(first),
      octets.allSatisfy({ isAlphanumeric($0) || [45, 46, 95].contains($0) })
    else { return nil }
    self.role = role
    self.name = String(name)
  }

  /// Reads `agent/vm1`.
  package init?(_ text: some StringProtocol) {
    guard let slash = text.firstIndex(of: "/"), let role = CertificateRole(rawValue: String(text[..<slash])) else { return nil }
    self.init(role: role, name: text[text.index(after: slash)...])
  }

  /// Reads `longhaul://agent/vm1`.
  package init?(uri: String) {
    guard uri.hasPrefix(NodeName.scheme) else { return nil }
    self.init(uri.dropFirst(NodeName.scheme.count))
  }

  /// True of a name that claims to be one of ours, well-formed or not.
  static func isOurs(uri: String) -> Bool { uri.hasPrefix(scheme) }

  package var uri: String { NodeName.scheme + description }
  package var description: String { "\(role.rawValue)/\(name)" }
  package static func < (a: Self, b: Self) -> Bool { a.description < b.description }
}
