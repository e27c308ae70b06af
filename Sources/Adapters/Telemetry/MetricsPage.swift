/// A page of metrics in Prometheus' text form, version 0.0.4.
package struct MetricsPage: Sendable {
  package static let contentType = "text/plain; version=0.0.4; charset=utf-8"

  package enum Kind: String, Sendable {
    /// Only grows, while the program runs; its name ends in `_total`.
    case counter
    case gauge
  }

  /// One value of a metric. Labels are few and fixed; what their values are is bounded by who makes them.
  package struct Sample: Sendable {
    package var labels: [(name: String, value: String)]
    package var value: Double

    package init(_ value: some BinaryInteger, _ labels: (name: String, value: String)...) {
      self.labels = labels
      self.value = Double(value)
    }

    package init(_ value: Double, _ labels: (name: String, value: String)...) {
      self.labels = labels
      self.value = value
    }
  }

  package private(set) var text = ""
  private var names: Set<MetricName> = []

  package init() {}

  /// One metric with all its samples; left out where there are none. Each name comes once.
  package mutating func add(_ name: MetricName, _ kind: Kind, _ help: String, _ samples: [Sample]) {
    precondition(names.insert(name).inserted, "\(name) stands twice on a page")
    precondition((kind == .counter) == name.text.hasSuffix("_total"), "\(name) is no name for a \(kind)")
    guard !samples.isEmpty else { return }
    text += "# HELP \(name) \(MetricsPage.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
    for sample in samples {
      text += name.text
      if !sample.labels.isEmpty {
        text += "{" + sample.labels.map { "\($0.name)=\"\(MetricsPage.escaped($0.value, quotes: true))\"" }.joined(separator: ",") + "}"
      }
      text += " \(MetricsPage.number(sample.value))\n"
    }
  }

  private static func escaped(_ text: String, quotes: Bool) -> String {
    var escaped = ""
    for character in text.unicodeScalars {
      switch character {
      case "\\": escaped += "\\\\"
      case "\n": escaped += "\\n"
      case "\"" where quotes: escaped += "\\\""
      default: escaped.unicodeScalars.append(character)
      }
    }
    return escaped
  }

  /// Whole numbers as such: 2^53 octets are 9 petabytes.
  private static func number(_ value: Double) -> String {
    value == value.rounded() && value.magnitude < 9e15 ? "\(Int64(value))" : "\(value)"
  }
}
