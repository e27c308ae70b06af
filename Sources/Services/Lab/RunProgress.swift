import Foundation
import Synchronization

/// What a person sees while a run goes on: one line for each step, and under them a line of the throughput that is written anew.
final class RunProgress: Sendable {
  private struct State {
    var lastOctets = 0
    var lastSeconds = 0.0
    var hasLive = false
    var recent: [Double] = []
    /// Of the guest's memory, 0 to 1; nil before it is copied.
    var memory: Double?
  }

  private let isTerminal: Bool
  private let isQuiet: Bool
  private let started = ContinuousClock.now
  private let state = Mutex(State())

  /// On a terminal the live line is drawn five times a second, elsewhere it is printed once a second.
  private var interval: Double { isTerminal ? 0.2 : 1 }
  private static let bars = Array("▁▂▃▄▅▆▇█")
  private static let shownBars = 30

  init(isQuiet: Bool) {
    self.isQuiet = isQuiet
    isTerminal = isatty(STDERR_FILENO) == 1
  }

  private var seconds: Double {
    let span = ContinuousClock.now - started
    return Double(span.components.seconds) + Double(span.components.attoseconds) / 1e18
  }

  func step(_ text: String) {
    guard !isQuiet else { return }
    state.withLock { state in
      if state.hasLive, isTerminal { put("\r\u{1b}[K") }
      state.hasLive = false
      put("[\(padded(seconds, 6, 2)) s] \(text)\n")
    }
  }

  /// So much has arrived, at so many seconds of the download.
  func live(_ octets: Int, of total: Int, at seconds: Double) {
    guard !isQuiet else { return }
    state.withLock { state in
      guard seconds - state.lastSeconds >= interval || octets == total else { return }
      let rate = Double(octets - state.lastOctets) * 8 / 1e6 / max(seconds - state.lastSeconds, 0.001)
      state.lastOctets = octets
      state.lastSeconds = seconds
      state.recent = Array((state.recent + [rate]).suffix(RunProgress.shownBars))
      let highest = max(state.recent.max() ?? 1, 1)
      let chart = String(state.recent.map { RunProgress.bars[min(7, Int($0 / highest * 7.999))] })
      let line =
        "  download \(padded(Double(octets) / 1e6, 7, 1)) of \(padded(Double(total) / 1e6, 0, 1)) MB  \(padded(rate, 6, 1)) Mbit/s  \(chart)\(state.memory.map { "  memory copied: \(Int($0 * 100)) %" } ?? "")"
      put(isTerminal ? "\r\u{1b}[K\(line)" : "\(line)\n")
      state.hasLive = true
    }
  }

  /// So much of the guest's memory has been copied; shown with the next figures of the download.
  func memory(_ share: Double?) { state.withLock { $0.memory = share } }

  private func put(_ text: String) { FileHandle.standardError.write(Data(text.utf8)) }

  private func padded(_ value: Double, _ width: Int, _ digits: Int) -> String { String(format: "%\(width).\(digits)f", value) }
}
