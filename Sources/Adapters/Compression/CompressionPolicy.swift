/// Whether the next batch of a flow is worth compressing, judged by those before it.
package struct CompressionPolicy: Sendable {
  /// The ratio (packed / plain) is judged over so many octets.
  package static let judged = 256 << 10
  /// Above it compressing is given up: 5 % of the wire does not pay for the other end's decoding, and zstd says 1.0005 of what is random.
  package static let giveUpRatio = 0.95
  /// After so many literal octets it is tried again, then after twice as many, and so on.
  package static let firstPause = 4 << 20
  package static let longestPause = 64 << 20
  /// A try is judged over so many octets, and must do clearly better than what made us give up.
  package static let tried = 64 << 10
  package static let resumeRatio = 0.9
  /// A message this short is sent as it is until a context exists: no code shrinks 64 octets by more than their frame's header.
  package static let shortest = 64

  private enum State: Sendable {
    /// Nothing worth a context has come yet.
    case untouched
    case compressing(plain: Int, packed: Int)
    case literal(left: Int, pause: Int)
    case trying(plain: Int, packed: Int, pause: Int)
  }

  package enum Choice: Sendable {
    case literal
    case compress
  }

  package enum Verdict: Sendable {
    case goOn
    /// End the zstd frame and free the context.
    case giveUp
  }

  private var state = State.untouched

  package init() {}

  package mutating func choose(_ octets: Int) -> Choice {
    switch state {
    case .untouched:
      if octets <= CompressionPolicy.shortest { return .literal }
      state = .compressing(plain: 0, packed: 0)
      return .compress
    case .compressing, .trying: return .compress
    case .literal(let left, let pause):
      if left > 0 {
        state = .literal(left: left - octets, pause: pause)
        return .literal
      }
      state = .trying(plain: 0, packed: 0, pause: pause)
      return .compress
    }
  }

  /// What the compressed batch came to.
  package mutating func compressed(_ plain: Int, to packed: Int) -> Verdict {
    switch state {
    case .untouched, .literal: return .goOn
    case .compressing(let plainBefore, let packedBefore):
      let (plain, packed) = (plainBefore + plain, packedBefore + packed)
      guard plain >= CompressionPolicy.judged else {
        state = .compressing(plain: plain, packed: packed)
        return .goOn
      }
      if Double(packed) > CompressionPolicy.giveUpRatio * Double(plain) {
        state = .literal(left: CompressionPolicy.firstPause, pause: CompressionPolicy.firstPause)
        return .giveUp
      }
      state = .compressing(plain: 0, packed: 0)
      return .goOn
    case .trying(let plainBefore, let packedBefore, let pause):
      let (plain, packed) = (plainBefore + plain, packedBefore + packed)
      guard plain >= CompressionPolicy.tried else {
        state = .trying(plain: plain, packed: packed, pause: pause)
        return .goOn
      }
      if Double(packed) > CompressionPolicy.resumeRatio * Double(plain) {
        let next = min(2 * pause, CompressionPolicy.longestPause)
        state = .literal(left: next, pause: next)
        return .giveUp
      }
      state = .compressing(plain: 0, packed: 0)
      return .goOn
    }
  }
}
