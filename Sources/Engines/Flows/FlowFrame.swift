import NIOCore
import Vocabulary

/// A flow within its session or tunnel connection. In a session it is the SCTP stream id of both directions (RFC 9260: 16 bits).
package struct FlowID: Hashable, Comparable, Sendable, CustomStringConvertible {
  package let value: UInt32
  package init(_ value: UInt32) { self.value = value }
  package static func < (a: FlowID, b: FlowID) -> Bool { a.value < b.value }
  package var description: String { "\(value)" }
}

/// Where a flow wants to go: a name or an address, as the application said it, and a port.
package struct FlowTarget: Hashable, Sendable, CustomStringConvertible {
  /// At most 255 octets of UTF-8 (as in SOCKS5, RFC 1928).
  package var host: String
  package var port: UInt16

  package init(host: String, port: UInt16) {
    self.host = host
    self.port = port
  }

  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }
}

/// Why a flow was not opened. The numbers are on the wire.
package enum FlowRefusal: UInt8, Error, Hashable, Sendable {
  /// The service's host answered with a RST.
  case connectionRefused = 1
  case hostUnreachable = 2
  case timedOut = 3
  /// The name could not be resolved.
  case unknownHost = 4
  /// A policy forbids this target.
  case notAllowed = 5
  /// The acceptor has as many flows as its limit allows.
  case tooManyFlows = 6
  /// Anything else on the acceptor's side.
  case failed = 7
  /// The session or tunnel was lost, or this side gave up before an answer came.
  case lost = 8
}

/// What two ends say of one flow. A session carries each frame as one SCTP message whose PPID is `Kind`; a tunnel puts `Kind` in its frame header.
package enum FlowFrame: Hashable, Sendable {
  /// `window` is how many octets the opener takes before it gives CREDIT.
  case open(FlowTarget, window: UInt32)
  /// The far side is connected; `window` is the acceptor's, and covers the octets sent before this answer.
  case opened(window: UInt32)
  case refused(FlowRefusal)
  case data(ByteBuffer)
  /// The receiver has passed on so many more octets.
  case credit(UInt32)
  /// No more data from this side (TCP's FIN).
  case end
  /// This side is gone (TCP's RST); nothing more in either direction.
  case reset

  package enum Kind: UInt8, Sendable {
    case open = 1, opened, refused, data, credit, end, reset
  }
}
