import Logging
import Synchronization

/// Keeps the lines that a service logs.
package final class LogLines: Sendable {
  private let lines = Mutex<[String]>([])
  package var all: [String] { lines.withLock { $0 } }
  package func has(_ words: String) -> Bool { all.contains { $0.contains(words) } }

  package init() {}

  package func logger() -> Logger {
    var logger = Logger(label: "test") { _ in Handler(lines: self) }
    logger.logLevel = .info
    return logger
  }

  private struct Handler: LogHandler {
    let lines: LogLines
    var metadata: Logger.Metadata = [:]
    var logLevel = Logger.Level.info
    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
      get { metadata[key] }
      set { metadata[key] = newValue }
    }
    func log(event: LogEvent) { lines.lines.withLock { $0.append("\(event.message) \(event.metadata ?? [:])") } }
  }
}
