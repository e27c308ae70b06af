/// What flows came to on tunnel connections, in octets: `plain` as applications sent them, `wire` as they crossed the WAN (frame headers left out).
package struct FlowStatistics: Sendable, Hashable {
  package var plainSent = 0
  package var wireSent = 0
  package var plainReceived = 0
  package var wireReceived = 0

  static func += (a: inout FlowStatistics, b: FlowStatistics) {
    a.plainSent += b.plainSent
    a.wireSent += b.wireSent
    a.plainReceived += b.plainReceived
    a.wireReceived += b.wireReceived
  }
}
