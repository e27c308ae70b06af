import DequeModule

/// How many octets that went in full are still under way on a flow, beside those that went as names.
///
/// A receiver that stops holds what came in full in memory, and of the rest the names only. So a flow's window may be several times what memory shall hold, if its sender
/// counts apart. CREDIT counts all octets in their order; marks tell which of them were names.
package struct LiteralWindow: Sendable {
  private struct Mark: Sendable {
    /// Octets of the flow, and of those the ones that went in full, when the mark was made.
    var octets: Int
    var literal: Int
  }

  /// A window is so many times what memory shall hold of it: 50 MB that go as names fit into that of 100 Mbit/s x 500 ms, and need not wait for CREDIT.
  package static let namesFactor = 3
  /// Marks stand a sixteenth of the limit apart.
  private static let marksInLimit = 16

  package let limit: Int
  private var marks: Deque<Mark> = []
  private var octets = 0
  private var literal = 0
  private var credited = 0
  /// What had gone in full of the octets that CREDIT has come for.
  private var creditedLiteral = 0

  package init(limit: Int) { self.limit = limit }

  /// Octets that may go in full now.
  package var room: Int { max(limit - (literal - creditedLiteral), 0) }

  /// All octets of the flow so far, and those of them that went in full.
  package mutating func sent(_ octets: Int, literal: Int) {
    self.octets = octets
    self.literal = max(literal, self.literal)
    if let last = marks.last, octets - last.octets < limit / LiteralWindow.marksInLimit { return }
    marks.append(Mark(octets: octets, literal: self.literal))
  }

  /// The peer has passed on so many more.
  package mutating func credit(_ octets: Int) {
    credited += octets
    while let mark = marks.first, mark.octets <= credited {
      creditedLiteral = mark.literal
      marks.removeFirst()
    }
    if credited >= self.octets { creditedLiteral = literal }
  }
}
