import Vocabulary
import Yams

/// Walks through a YAML mapping and takes its keys; what is wrong or left over is told with file, line and key.
package struct SettingsReader {
  package let file: String
  /// The way to this mapping, empty at the top.
  package let path: String
  private let mapping: Node.Mapping
  private let line: Int?
  private var left: [String: (key: Node, value: Node)] = [:]
  private var known: [String] = []

  package init(_ node: Node, file: String, path: String, keys: [String]) throws(SettingsError) {
    self.file = file
    self.path = path
    line = node.mark?.line
    known = keys
    guard case .mapping(let mapping) = node else {
      throw .setting(
        file: file, line: node.mark?.line, key: path.isEmpty ? "the file" : path,
        problem: "must be keys and values: \(keys.joined(separator: ", "))")
    }
    self.mapping = mapping
    for (key, value) in mapping {
      let name = key.scalar?.string ?? "?"
      guard keys.contains(name) else {
        throw .setting(
          file: file, line: key.mark?.line, key: path.isEmpty ? name : "\(path).\(name)",
          problem: "no such key; known here are \(keys.joined(separator: ", "))")
      }
      left[name] = (key, value)
    }
  }

  package func way(to key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

  package func error(_ key: String, _ problem: String) -> SettingsError {
    .setting(file: file, line: left[key]?.value.mark?.line ?? line, key: way(to: key), problem: problem)
  }

  package func node(_ key: String) -> Node? {
    guard let node = left[key]?.value else { return nil }
    if node.scalar?.string.isEmpty == true, node.scalar?.style == .plain { return nil }  // `key:` without a value
    return node
  }

  package func missing(_ key: String, _ expected: String) -> SettingsError { error(key, "missing; expected \(expected)") }

  // MARK: Values

  package func optionalText(_ key: String, _ expected: String) throws(SettingsError) -> String? {
    guard let node = node(key) else { return nil }
    guard let text = node.scalar?.string else { throw error(key, "expected \(expected)") }
    return text
  }

  package func text(_ key: String, _ expected: String) throws(SettingsError) -> String {
    guard let text = try optionalText(key, expected) else { throw missing(key, expected) }
    return text
  }

  package func name(_ key: String) throws(SettingsError) -> String {
    let text = try text(key, PlainName.rule)
    guard PlainName.isPlain(text) else { throw error(key, "\"\(text)\" is not \(PlainName.rule)") }
    return text
  }

  package func optionalEndpoint(_ key: String) throws(SettingsError) -> Endpoint? {
    guard let text = try optionalText(key, "ADDRESS:PORT") else { return nil }
    guard let endpoint = Endpoint(text) else { throw error(key, "\"\(text)\" is not ADDRESS:PORT, for instance 10.0.0.1:7700") }
    return endpoint
  }

  package func endpoint(_ key: String) throws(SettingsError) -> Endpoint {
    guard let endpoint = try optionalEndpoint(key) else { throw missing(key, "ADDRESS:PORT") }
    return endpoint
  }

  package func optionalNumber(_ key: String, _ range: ClosedRange<Double>) throws(SettingsError) -> Double? {
    let expected = "a number from \(plain(range.lowerBound)) to \(plain(range.upperBound))"
    guard let text = try optionalText(key, expected) else { return nil }
    guard let number = Double(text), range.contains(number) else { throw error(key, "\"\(text)\" is not \(expected)") }
    return number
  }

  /// The texts of a list; one text alone is a list of one, an absent list is empty.
  package func texts(_ key: String, _ expected: String) throws(SettingsError) -> [String] {
    guard let node = node(key) else { return [] }
    if let text = node.scalar?.string { return [text] }
    guard case .sequence(let sequence) = node else { throw error(key, "expected a list, each \(expected)") }
    var texts: [String] = []
    for element in sequence {
      guard let text = element.scalar?.string else { throw error(key, "expected a list, each \(expected)") }
      texts.append(text)
    }
    return texts
  }

  /// The elements of a list, each with its way; an absent list is empty.
  package func list(_ key: String, _ expected: String) throws(SettingsError) -> [(path: String, node: Node)] {
    guard let node = node(key) else { return [] }
    guard case .sequence(let sequence) = node else { throw error(key, "must be a list of \(expected)") }
    return sequence.enumerated().map { ("\(way(to: key))[\($0.offset)]", $0.element) }
  }

  private func plain(_ number: Double) -> String { number == number.rounded() ? "\(Int(number))" : "\(number)" }
}
