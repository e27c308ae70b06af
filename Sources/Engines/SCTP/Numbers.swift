import Vocabulary

/// Transmission sequence number (RFC 9260 section 1.6): one for each DATA chunk of an association.
package struct TSN: SerialNumber {
  package var value: UInt32
  package init(_ value: UInt32) { self.value = value }
}

/// Stream sequence number: one for each ordered user message of a stream.
package struct SSN: SerialNumber {
  package var value: UInt16
  package init(_ value: UInt16) { self.value = value }
}

/// The sequence number of ASCONF chunks (RFC 5061 section 4.1.1).
package struct ASCONFSerial: SerialNumber {
  package var value: UInt32
  package init(_ value: UInt32) { self.value = value }
}

package struct StreamID: Hashable, Sendable, Comparable, CustomStringConvertible {
  package let value: UInt16
  package init(_ value: UInt16) { self.value = value }
  package static func < (a: StreamID, b: StreamID) -> Bool { a.value < b.value }
  package var description: String { "\(value)" }
}

/// One connection under an association, named by its owner; a name is never used twice in one association.
package struct CarrierID: Hashable, Sendable, CustomStringConvertible {
  package let value: UInt64
  package init(_ value: UInt64) { self.value = value }
  package var description: String { "\(value)" }
}

/// The sequence number of requests for streams (RFC 6525 section 4.1).
struct ResetSerial: SerialNumber {
  var value: UInt32
  init(_ value: UInt32) { self.value = value }
}

/// The MID of RFC 8260.
struct MessageID: SerialNumber {
  var value: UInt32
  init(_ value: UInt32) { self.value = value }
}
