import Flows
import NIOCore

/// One way of saying to a proxy where a connection shall go. Pure: octets in, a step out; the handler does the rest.
package protocol ProxyHandshake: Sendable {
  /// Takes what it can from `bytes` and says what to do. After `.target` the rest of `bytes` belongs to the flow. Called once with nothing at the beginning: some know
  /// the target before the client has said a word.
  mutating func receive(_ bytes: inout ByteBuffer) -> ProxyHandshakeStep

  /// What to write once the far side is connected.
  func acceptance() -> ByteBuffer

  /// What to write when it is not going to be; nil if the protocol has no word for it: the client then sees a RST, as from a server that refuses.
  func refusal(_ why: FlowRefusal, of target: FlowTarget) -> ByteBuffer?

  /// What to write to a client that did not finish in time; empty if the protocol has no word for it.
  func tooSlow() -> ByteBuffer
}

package enum ProxyHandshakeStep: Hashable, Sendable {
  case needMore
  /// Write this, and go on with what is left in the buffer.
  case reply(ByteBuffer)
  case target(FlowTarget)
  /// Write this (it may be empty) and close; `reason` is for the log.
  case invalid(answer: ByteBuffer, reason: String)
}

/// The bounds of both handshakes.
package enum InterceptionLimits {
  /// Request line and fields, or status line and fields. A CONNECT from a browser with credentials stays below 2 KiB.
  package static let headOctets = 8_192
  /// What a client may have sent behind its handshake before a relay takes it. The handler stops reading, but a FIN makes NIO read all that the
  /// kernel has; a client that ends its stream this early has sent a request, not a file.
  package static let heldOctets = 1_048_576
  /// From accept to a complete handshake. Three SYN-like losses of the head (1 + 2 + 4 s) still fit.
  package static let handshake = TimeAmount.seconds(10)
  /// How long, after a refusal, the client's remaining octets are swallowed.
  package static let linger = TimeAmount.seconds(1)
  /// From sending CONNECT to its answer: the far side's connect timeout (10 s), and round trips.
  package static let answer = TimeAmount.seconds(15)
}
