/// What flows came to on tunnel connections, in octets: `plain` as applications sent them, `wire` as they crossed the WAN (frame headers left out).
package struct FlowStatistics: Sendable, Hashable {
  package var plainSent = 0
  package var wireSent = 0
  package var plainReceived = 0
  package var wireReceived = 0
  /// Of `plainSent`, octets that went as names of chunks.
  package var referencedSent = 0
  /// Of `plainReceived`, octets that came as names of chunks.
  package var referencedReceived = 0
  /// Chunks that the peer lacked, and was sent after all.
  package var missingSent = 0
  /// Chunks that this end lacked.
  package var missingReceived = 0

  package init() {}

  package static func += (a: inout FlowStatistics, b: FlowStatistics) {
    a.plainSent += b.plainSent
    a.wireSent += b.wireSent
    a.plainReceived += b.plainReceived
    a.wireReceived += b.wireReceived
    a.referencedSent += b.referencedSent
    a.referencedReceived += b.referencedReceived
    a.missingSent += b.missingSent
    a.missingReceived += b.missingReceived
  }
}
