import Logging
import Synchronization
import Testing

/// Keeps what a service logs.
final class LogBook: Sendable {
  private let lines = Mutex<[String]>([])

  var text: String { lines.withLock { $0.joined(separator: "\n") } }

  func logger(_ label: String) -> Logger { Logger(label: label) { _ in Handler(book: self) } }

  /// Looked at until so many lines contain this, with a limit.
  func wait(for part: String, times: Int = 1) async throws {
    let until = ContinuousClock.now + .seconds(10)
    while lines.withLock({ $0.count { $0.contains(part) } }) < times {
      try #require(ContinuousClock.now < until, "no log line with \"\(part)\" in:\n\(text)")
      try await Task.sleep(for: .milliseconds(2))
    }
  }

  private struct Handler: LogHandler {
    let book: LogBook
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info
    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }
    func log(event: LogEvent) { book.lines.withLock { $0.append("\(event.level): \(event.message)") } }
  }
}
