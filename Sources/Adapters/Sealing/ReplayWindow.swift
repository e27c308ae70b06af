/// Which numbers have been seen: the highest, and the 64 up to it (RFC 4303 section 3.4.3). What lies below counts as seen.
package struct ReplayWindow: Sendable, Hashable {
  package static let size: UInt64 = 64
  private var highest: UInt64?
  /// Bit n: `highest - n` has been seen.
  private var seen: UInt64 = 0

  package init() {}

  package func admits(_ number: UInt64) -> Bool {
    guard let highest, number <= highest else { return true }
    let distance = highest - number
    return distance < ReplayWindow.size && seen & (1 << distance) == 0
  }

  /// To be told once the number has been found authentic.
  package mutating func note(_ number: UInt64) {
    guard let highest else {
      highest = number
      seen = 1
      return
    }
    if number > highest {
      let distance = number - highest
      seen = distance < ReplayWindow.size ? seen << distance | 1 : 1
      self.highest = number
    } else if highest - number < ReplayWindow.size {
      seen |= 1 << (highest - number)
    }
  }
}
