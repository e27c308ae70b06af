/// The name of a metric: letters, digits and underscores, the unit last (`longhaul_tunnel_sent_octets_total`).
package struct MetricName: Hashable, Sendable, CustomStringConvertible {
  package let text: String
  package init(_ text: String) { self.text = text }
  package var description: String { text }
}
