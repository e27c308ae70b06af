import Vocabulary

/// Another accelerator as the controller's map has it: where it takes tunnels, and which targets lie beside it.
package struct PeerPlace: Codable, Sendable, Hashable {
  package var node: NodeID
  package var tunnel: Endpoint
  package var prefixes: [IPPrefix]

  package init(node: NodeID, tunnel: Endpoint, prefixes: [IPPrefix]) {
    self.node = node
    self.tunnel = tunnel
    self.prefixes = prefixes
  }
}
