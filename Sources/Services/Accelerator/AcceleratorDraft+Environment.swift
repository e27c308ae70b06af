import SettingsFiles

extension AcceleratorDraft {
  private static let source = "of the environment"

  /// `LONGHAUL_NODE`, `LONGHAUL_TUNNEL` and so on; `LONGHAUL_PEERS` and `LONGHAUL_ROUTES` are what the flags take, with spaces between them.
  package init(environment: [String: String]) throws(SettingsError) {
    self.init()
    for key in SettingKey.all {
      let variable = "LONGHAUL_\(key.variable)"
      guard let text = environment[variable], !text.isEmpty else { continue }
      guard key.take(text, &self) else { throw AcceleratorDraft.error(variable, "\"\(text)\" is not \(key.expected)") }
    }
    peers = try AcceleratorDraft.list("LONGHAUL_PEERS", environment, "NAME=ADDRESS:PORT") { AcceleratorSettings.Peer($0) }
    routes = try AcceleratorDraft.list("LONGHAUL_ROUTES", environment, "PREFIX=PEER") { AcceleratorSettings.Route($0) }
  }

  private static func list<T>(
    _ variable: String, _ environment: [String: String], _ expected: String, _ read: (String) -> T?
  ) throws(SettingsError) -> [T]? {
    guard let text = environment[variable], !text.isEmpty else { return nil }
    var values: [T] = []
    for word in text.split(whereSeparator: \.isWhitespace) {
      guard let value = read(String(word)) else { throw error(variable, "\"\(word)\" is not \(expected)") }
      values.append(value)
    }
    return values
  }

  private static func error(_ variable: String, _ problem: String) -> SettingsError {
    .setting(file: source, line: nil, key: variable, problem: problem)
  }
}
