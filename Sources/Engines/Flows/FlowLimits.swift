import NIOCore

/// How much one table may hold.
package struct FlowLimits: Sendable, Hashable {
  /// Octets that a receiver takes before it gives CREDIT. 16 MiB: 300 ms x 400 Mbit/s / 8 = 15 MB in flight on one flow.
  package var window: Int
  /// Octets that an opener may send behind OPEN before it knows the acceptor's window.
  package var earlyData: Int
  package var maximumFlows: Int

  package init(window: Int = 16 << 20, earlyData: Int = 65_536, maximumFlows: Int = 65_535) {
    precondition(window >= earlyData && window <= Int(UInt32.max))
    self.window = window
    self.earlyData = earlyData
    self.maximumFlows = maximumFlows
  }
}

/// The peer said something that no correct peer says; its session or tunnel connection should end.
package enum FlowViolation: Error, Hashable, Sendable, CustomStringConvertible {
  case openOfUsedFlow(FlowID)
  case openFromAcceptor(FlowID)
  case identifierOutOfRange(FlowID)
  case unexpected(FlowFrame.Kind, FlowID)
  case moreDataThanCredit(FlowID)
  case creditOverflow(FlowID)
  case channelOfOpenFlowReset(FlowID)
  case malformed(FlowFrame.Kind)
  case unknownKind(UInt32)

  package var description: String {
    switch self {
    case .openOfUsedFlow(let id): "the peer opened flow \(id), which is in use"
    case .openFromAcceptor(let id): "the peer opened flow \(id), but only this end opens flows"
    case .identifierOutOfRange(let id): "the peer named flow \(id), which is out of range"
    case .unexpected(let kind, let id): "the peer sent \(kind) on flow \(id), whose state forbids it"
    case .moreDataThanCredit(let id): "the peer sent more on flow \(id) than its credit"
    case .creditOverflow(let id): "the peer's credit on flow \(id) passes 2^32"
    case .channelOfOpenFlowReset(let id): "the peer reset the stream of flow \(id), which is open"
    case .malformed(let kind): "the peer sent a malformed \(kind)"
    case .unknownKind(let value): "the peer sent a frame of the unknown kind \(value)"
    }
  }
}

/// What the table's owner has to do or to know.
package enum FlowEvent: Sendable, Hashable {
  /// The peer wants a flow: `accept` or `refuse` it.
  case incoming(FlowID, FlowTarget)
  case opened(FlowID)
  /// The flow is gone; nothing follows.
  case refused(FlowID, FlowRefusal)
  /// Octets for the local side; report them with `consumed` once they have been passed on.
  case data(FlowID, ByteBuffer)
  /// Credit has come back after `sendable` was zero.
  case writable(FlowID)
  /// The peer sends no more (half-close).
  case ended(FlowID)
  /// The peer is gone: the local side should be reset. `closed` follows.
  case reset(FlowID)
  /// Both directions have ended; the identifier means nothing from here on.
  case closed(FlowID)
}
