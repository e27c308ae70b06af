import Flows
import NIOCore

/// A client that says nothing of where it wants to go, because the place where it came in tells: a static forward, or an intercepted connection. It hears nothing of ours either: what it sees is the far side's
/// octets, or a RST.
package struct KnownTarget: ProxyHandshake {
  private let target: FlowTarget

  package init(_ target: FlowTarget) { self.target = target }

  package mutating func receive(_ bytes: inout ByteBuffer) -> ProxyHandshakeStep { .target(target) }
  package func acceptance() -> ByteBuffer { ByteBuffer() }
  package func refusal(_ why: FlowRefusal, of target: FlowTarget) -> ByteBuffer? { nil }
  package func tooSlow() -> ByteBuffer { ByteBuffer() }
}
