import Flows
import Sockets
import Vocabulary

/// The ways in beside HTTP CONNECT, and what becomes of the flows that no tunnel takes.
package struct EntranceSettings: Sendable, Hashable {
  /// A port whose connections all go to one target.
  package struct Forward: Sendable, Hashable {
    package var listen: Endpoint
    package var target: Location

    package init(listen: Endpoint, target: Location) {
      self.listen = listen
      self.target = target
    }

    /// `10.1.0.5:8080=10.2.0.9:80`; the target may be a name, which is looked up for each connection.
    package init?(_ text: String) {
      guard let equals = text.firstIndex(of: "="), let listen = Endpoint(text[..<equals]),
        let target = Location(text[text.index(after: equals)...])
      else { return nil }
      self.init(listen: listen, target: target)
    }
  }

  /// What becomes of a flow whose peer cannot take it.
  package enum Bypass: String, Sendable, CaseIterable {
    /// It goes directly, at once: with TCP split here, but without the tunnel.
    case direct
    /// It waits a little for a peer that has just gone, and is refused: for targets that can only be reached by way of the peer.
    case refuse
  }

  /// The congestion control of connections that no tunnel takes.
  package enum Congestion: String, Sendable, CaseIterable {
    /// What net.ipv4.tcp_congestion_control says.
    case kernel, cubic, bbr

    var control: CongestionPolicy.Control? { CongestionPolicy.Control(rawValue: rawValue) }
  }

  /// Where SOCKS5 is spoken.
  package var socks: Endpoint?
  package var forwards: [Forward]
  /// Where nftables hands connections over that were dialled to somebody else (TPROXY; `longhaul accelerator rules`).
  package var transparent: Endpoint?
  /// Targets see the address and port of the client, not this machine's: those of intercepted flows that this accelerator dials itself, and of those that its peers' clients began. The answers must come by
  /// this machine.
  package var keepsSource = false
  package var bypass = Bypass.direct
  /// Of both legs of a flow that goes directly: which of them crosses the WAN depends on where the accelerator stands.
  package var congestion = Congestion.kernel
  /// From the first SYN to a target until it counts as one that does not answer.
  package var dialLimit = EntranceSettings.defaultDialLimit

  /// A SYN is sent again after 1, 3 and 7 s (RFC 6298): three losses fit. It stays below `InterceptionLimits.answer`.
  package static let defaultDialLimit = TimeSpan.seconds(Int64(10))

  package init(socks: Endpoint? = nil, forwards: [Forward] = []) {
    self.socks = socks
    self.forwards = forwards
  }

  var isEmpty: Bool { socks == nil && forwards.isEmpty && transparent == nil }
}
