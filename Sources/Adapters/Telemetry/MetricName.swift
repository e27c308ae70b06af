/// The name of a metric: letters, digits and underscores, the unit last (`longhaul_tunnel_sent_octets_total`).
package struct MetricName: Hashable, Sendable, CustomStringConvertible {
  package let text: String

  /// Names are written by us, none is made up while the program runs: a wrong one is our bug.
  package init(_ text: String) {
    precondition(text.utf8.first.map { (97...122).contains($0) } == true)
    precondition(text.utf8.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 95 })
    self.text = text
  }

  package var description: String { text }
}
