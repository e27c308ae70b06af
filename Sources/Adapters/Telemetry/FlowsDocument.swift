/// What `/flows` says: who talks to whom, and how it goes. Programs read it (`longhaul flows --json`), so names do not change.
package struct FlowsDocument: Codable, Sendable, Hashable {
  /// The largest come first, and no more than these.
  package static let maximumRows = 1_000

  package struct Row: Codable, Sendable, Hashable {
    /// Nil: no tunnel took the flow.
    package var peer: String?
    /// This end opened the flow, for an application here; false: for the peer.
    package var isOpener: Bool
    package var target: String
    /// The application's own address, where it is shown to the target.
    package var source: String?
    package var tenant: String
    package var `class`: String
    package var ageSeconds: Double
    /// Octets of the application that went out from here, and what they were on the WAN.
    package var sentOctets: Int
    package var sentWireOctets: Int
    package var receivedOctets: Int
    package var receivedWireOctets: Int
    /// The mean since the flow began, both directions, as the application sees it.
    package var bitsPerSecond: Double
    /// `open`, `ending` (one direction has ended), or `direct`.
    package var state: String
    /// Why no tunnel took it.
    package var passed: String?

    package init(
      peer: String?, isOpener: Bool, target: String, source: String?, tenant: String, class: String, ageSeconds: Double, sentOctets: Int,
      sentWireOctets: Int, receivedOctets: Int, receivedWireOctets: Int, state: String, passed: String? = nil
    ) {
      self.peer = peer
      self.isOpener = isOpener
      self.target = target
      self.source = source
      self.tenant = tenant
      self.class = `class`
      self.ageSeconds = ageSeconds
      self.sentOctets = sentOctets
      self.sentWireOctets = sentWireOctets
      self.receivedOctets = receivedOctets
      self.receivedWireOctets = receivedWireOctets
      bitsPerSecond = ageSeconds > 0 ? Double(octets(sentOctets, receivedOctets)) * 8 / ageSeconds : 0
      self.state = state
      self.passed = passed
    }

    /// The part of the application's octets that did not cross the WAN; nil before there are any, and of a flow without a tunnel.
    package var reduction: Double? {
      let plain = octets(sentOctets, receivedOctets)
      guard peer != nil, plain > 0 else { return nil }
      return 1 - Double(octets(sentWireOctets, receivedWireOctets)) / Double(plain)
    }
  }

  package var node: String
  /// All there are, shown or not.
  package var count: Int
  package var flows: [Row]

  package init(node: String, rows: [Row]) {
    self.node = node
    count = rows.count
    flows = Array(
      rows.sorted { octets($0.sentOctets, $0.receivedOctets) > octets($1.sentOctets, $1.receivedOctets) }.prefix(FlowsDocument.maximumRows))
  }
}

private func octets(_ a: Int, _ b: Int) -> Int { a + b }
