import NIOCore

/// What one end of a session says to the other about the session itself, beside the flows: one unordered SCTP message each (docs/wire/sctp-over-tcp.md).
package struct SessionMessage: Sendable, Hashable {
  package enum Kind: UInt8, Sendable {
    /// The agent passes a GO on (the token as JSON): the old path may still work when the controller cannot reach the client.
    case go = 1
    /// The client says which installation it is, so that the agent knows the dead session of one that has come back.
    case identity = 2
    /// The agent says how it can code the octets of flows (`CodecOffer`).
    case codec = 3
  }

  /// A GO with a path of sixteen accelerators has about 1,500 octets; more is refused unread.
  package static let maximumOctets = 4_096
  /// Payload protocol identifiers of messages: "LH", then this, then the kind. Flow frames have zero there.
  static let family: UInt32 = SessionDriver.protocolFamily | 0x0100

  package var kind: Kind
  package var octets: [UInt8]

  package init(_ kind: Kind, _ octets: [UInt8]) {
    self.kind = kind
    self.octets = octets
  }

  /// Nil for a kind of a later version, and for one that is too long: both are passed over.
  init?(identifier: UInt32, payload: ByteBuffer) {
    guard let kind = Kind(rawValue: UInt8(truncatingIfNeeded: identifier)), payload.readableBytes <= SessionMessage.maximumOctets else {
      return nil
    }
    self.kind = kind
    octets = Array(payload.readableBytesView)
  }
}
