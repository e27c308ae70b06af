/// Octets that senders keep because they have gone as names only, and the peer may still say MISSING. One for each tunnel connection, or one for all sessions of a program; bound to an event loop.
package final class PinBudget {
  package let limit: Int
  package internal(set) var octets = 0

  package init(limit: Int) { self.limit = limit }

  /// Beyond the limit all goes out in full.
  package var hasRoom: Bool { octets < limit }
}
