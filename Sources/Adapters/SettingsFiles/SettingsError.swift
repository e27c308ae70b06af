/// What is wrong with a settings file. Each description is a whole line for a person.
package enum SettingsError: Error, Sendable, Hashable, CustomStringConvertible {
  /// `help` is where an example stands.
  case unreadable(file: String, reason: String, help: String)
  /// `key` is the way to the value, as `machines[0].places[1].agent`.
  case setting(file: String, line: Int?, key: String, problem: String)

  package var description: String {
    switch self {
    case .unreadable(let file, let reason, let help): "settings \(file): \(reason); see \(help) for an example"
    case .setting(let file, let line, let key, let problem): "settings \(file)\(line.map { ":\($0)" } ?? ""): \(key): \(problem)"
    }
  }
}
