import Flows
import NIOCore
import Vocabulary

/// What DATA of one flow and direction is made of.
package enum DataCoding: UInt8, Sendable, Hashable {
  case plain = 0
  /// zstd frames (RFC 8878), flushed at the end of each DATA; a LITERAL between them is not part of the zstd stream.
  case zstd = 1
}

/// What OPEN and OPENED say about codecs.
package struct FlowCodings: Sendable, Hashable {
  /// The sender's own DATA on this flow.
  package var outbound: DataCoding
  /// OPEN: the best coding that the acceptor may answer with. OPENED: the same as `outbound`.
  package var inbound: DataCoding

  package init(outbound: DataCoding, inbound: DataCoding) {
    self.outbound = outbound
    self.inbound = inbound
  }

  package static let plain = FlowCodings(outbound: .plain, inbound: .plain)
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
  /// `codings` counts for OPEN and OPENED only.
  case flow(FlowID, FlowFrame, codings: FlowCodings)
  /// Plain octets of a flow, whatever the direction's coding.
  case literal(FlowID, ByteBuffer)
  case ping(UInt64)
  case pong(UInt64)
  /// So many octets of nothing.
  case pad(Int)
  case warm(WarmRequest)

  /// The first octet of a frame. 1 to 7 are `FlowFrame.Kind`.
  package enum Kind: UInt8, Sendable {
    case open = 1, opened, refused, data, credit, end, reset
    case literal = 8
    /// Taken by the byte cache, which is not built yet: REFERENCE names a chunk that the peer should have, MISSING says that it has not.
    case reference = 9
    case missing = 10
    case hello = 16, proof, goodbye
    case ping = 20, pong, pad, warm
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

  package init(version: UInt8 = TunnelLimits.version, node: NodeID, peer: NodeID, maximumFlows: UInt32, nonce: [UInt8]) {
    precondition(nonce.count == TunnelLimits.nonceOctets)
    self.version = version
    self.node = node
    self.peer = peer
    self.maximumFlows = maximumFlows
    self.nonce = nonce
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
