import Dedup
import Flows
import NIOCore
import Vocabulary

/// What OPEN and OPENED say beside the flow itself. Of OPENED only the codings count.
package struct FlowTerms: Sendable, Hashable {
  /// The sender's own DATA on this flow.
  package var outbound: DataCoding
  /// OPEN: the best coding that the acceptor may answer with. OPENED: the same as `outbound`.
  package var inbound: DataCoding
  package var priority: FlowPriority
  /// Whose flow it is: names of chunks, limits and figures are kept apart by it. At most `TunnelLimits.tenantOctets`; empty where nobody is told apart.
  package var tenant: String
  /// The application's own address, where the server shall see it.
  package var source: Endpoint?

  package init(
    outbound: DataCoding, inbound: DataCoding, priority: FlowPriority = .normal, tenant: String = "", source: Endpoint? = nil
  ) {
    self.outbound = outbound
    self.inbound = inbound
    self.priority = priority
    self.tenant = tenant
    self.source = source
  }

  package static let plain = FlowTerms(outbound: .plain, inbound: .plain)
}

/// The order to open the window of the sending direction before data needs it.
package struct WarmRequest: Sendable, Hashable {
  package var rate: BitRate
  package var roundTrip: TimeSpan
  package var hold: TimeSpan

  package init(rate: BitRate, roundTrip: TimeSpan, hold: TimeSpan) {
    self.rate = rate
    self.roundTrip = roundTrip
    self.hold = min(hold, TunnelLimits.hold)
  }

  /// Bandwidth x delay.
  package var windowOctets: Int { min(rate.bytes(in: roundTrip).octets, TunnelLimits.warmOctets / 2) }
}

/// Everything that one end of a tunnel connection says to the other.
package enum TunnelFrame: Sendable, Hashable {
  case hello(TunnelHello)
  case proof([UInt8])
  case goodbye(TunnelGoodbye)
  /// `terms` count for OPEN and OPENED only. DATA is `coded`.
  case flow(FlowID, FlowFrame, terms: FlowTerms)
  case coded(FlowID, CodedFrame)
  case ping(UInt64)
  case pong(UInt64)
  /// So many octets of nothing.
  case pad(Int)
  case warm(WarmRequest)
  /// The sender opens no flows on this connection any more, and wants none; those that live go on.
  case leaving
  /// What a third accelerator's store is believed to have, 1 to `TunnelLimits.namesAtOnce` names: passed on before a machine's flows move to the receiver.
  case have(PeerBelief)

  /// The first octet of a frame. 1 to 7 are `FlowFrame.Kind`.
  package enum Kind: UInt8, Sendable {
    case open = 1, opened, refused, data, credit, end, reset
    case literal = 8
    case reference, missing, chunk, resolved, lane
    case hello = 16, proof, goodbye
    case ping = 20, pong, pad, warm, leaving, have
  }
}

/// The first words of both ends.
package struct TunnelHello: Sendable, Hashable {
  package var version: UInt8
  package var node: NodeID
  /// The node that the sender means to talk to: the acceptor turns a caller for somebody else away. Empty in the acceptor's HELLO.
  package var peer: NodeID
  /// Flows that the sender accepts on this connection.
  package var maximumFlows: UInt32
  package var nonce: [UInt8]
  /// The identity of the sender's chunk store; 0 if it has none.
  package var store: UInt64

  package init(
    version: UInt8 = TunnelLimits.version, node: NodeID, peer: NodeID, maximumFlows: UInt32, nonce: [UInt8], store: UInt64 = 0
  ) {
    precondition(nonce.count == TunnelLimits.nonceOctets)
    self.version = version
    self.node = node
    self.peer = peer
    self.maximumFlows = maximumFlows
    self.nonce = nonce
    self.store = store
  }
}

/// The last words of either end, and why.
package struct TunnelGoodbye: Error, Sendable, Hashable, CustomStringConvertible {
  package enum Code: UInt8, Sendable {
    case version = 1, wrongKey, wrongPeer, violation, tooMany, stopping, tooSlow, silent
    /// A number of a later version.
    case other = 255
  }

  package var code: Code
  package var text: String

  package init(_ code: Code, _ text: String) {
    self.code = code
    self.text = text
  }

  package var description: String { text }
}

/// The octets are no tunnel frames, or none that belong here.
package enum TunnelViolation: Error, Sendable, Hashable, CustomStringConvertible {
  case notATunnel
  case unknownKind(UInt8)
  case tooLong(TunnelFrame.Kind, octets: Int)
  case malformed(TunnelFrame.Kind)
  case outOfTurn(TunnelFrame.Kind)
  case flow(FlowViolation)

  package var description: String {
    switch self {
    case .notATunnel: "these are not the first octets of a Longhaul tunnel"
    case .unknownKind(let value): "a frame of the unknown kind \(value)"
    case .tooLong(let kind, let octets): "\(kind) with \(octets) octets is too long"
    case .malformed(let kind): "a malformed \(kind)"
    case .outOfTurn(let kind): "\(kind) out of turn"
    case .flow(let violation): "\(violation)"
    }
  }
}
