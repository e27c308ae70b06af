/// A name given by the operator. Each kind of thing has its own type, so that one is never handed over as another.
package protocol Name: Hashable, Sendable, Codable, Comparable, CustomStringConvertible, ExpressibleByStringLiteral {
  var text: String { get }
  init(_ text: String)
}

extension Name {
  package init(stringLiteral value: String) { self.init(value) }
  package init(from decoder: any Decoder) throws { self.init(try decoder.singleValueContainer().decode(String.self)) }
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(text)
  }
  package var description: String { text }
  package static func < (a: Self, b: Self) -> Bool { a.text < b.text }
}

/// A running Longhaul program: an agent, a client or an accelerator.
package struct NodeID: Name {
  package let text: String
  package init(_ text: String) { self.text = text }
}

/// A data centre or an access network.
package struct SiteID: Name {
  package let text: String
  package init(_ text: String) { self.text = text }
}

/// A virtual machine, by the name that clients use for it.
package struct MachineID: Name {
  package let text: String
  package init(_ text: String) { self.text = text }
}

/// One migration of one machine, as the controller numbers them.
package struct MigrationID: Name {
  package let text: String
  package init(_ text: String) { self.text = text }
}
