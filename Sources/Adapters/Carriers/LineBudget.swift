import NIOCore

/// So many lines of one kind in the log, and no more: a flood of strangers should not become one of lines. What was left out is counted.
struct LineBudget {
  /// Twenty in ten seconds: a person can read them, and a day of a flood makes 170,000.
  static let lines = 20
  static let span = TimeAmount.seconds(10)

  private var began = NIODeadline.uptimeNanoseconds(0)
  private var told = 0
  private var untold = 0

  mutating func admits(at now: NIODeadline) -> Bool {
    if now - began >= LineBudget.span {
      began = now
      told = 0
    }
    guard told < LineBudget.lines else {
      untold += 1
      return false
    }
    told += 1
    return true
  }

  /// How many were left out since this was last asked.
  mutating func takeUntold() -> Int {
    defer { untold = 0 }
    return untold
  }
}
