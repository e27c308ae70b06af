import ArgumentParser
import Logging
import Vocabulary

extension Endpoint: ExpressibleByArgument {
  package init?(argument: String) { self.init(argument) }
}

extension IPAddress: ExpressibleByArgument {
  package init?(argument: String) { self.init(argument) }
}

extension ByteCount: ExpressibleByArgument {
  package init?(argument: String) { self.init(argument) }
}

extension IPPrefix: ExpressibleByArgument {
  package init?(argument: String) { self.init(argument) }
}

extension NodeID: ExpressibleByArgument {
  package init?(argument: String) {
    guard !argument.isEmpty else { return nil }
    self.init(argument)
  }
}

extension SiteID: ExpressibleByArgument {
  package init?(argument: String) {
    guard !argument.isEmpty else { return nil }
    self.init(argument)
  }
}

extension MachineID: ExpressibleByArgument {
  package init?(argument: String) {
    guard !argument.isEmpty else { return nil }
    self.init(argument)
  }
}

/// The log of a service: to standard error, one line each.
package struct LogOptions: ParsableArguments {
  @Option(help: "The least urgent level that is logged: trace, debug, info, notice, warning, error.")
  package var logLevel = "info"

  package init() {}

  package func validate() throws {
    guard Logger.Level(rawValue: logLevel) != nil else {
      throw ValidationError("--log-level \(logLevel): not one of trace, debug, info, notice, warning, error")
    }
  }

  package func logger(_ label: String) -> Logger {
    var logger = Logger(label: label) { StreamLogHandler.standardError(label: $0) }
    logger.logLevel = Logger.Level(rawValue: logLevel) ?? .info
    return logger
  }
}
