import Vocabulary
import Yams

/// Walks through a YAML mapping and takes its keys; what is wrong or left over is told with file, line and key.
struct SettingsReader {
  let file: String
  /// The way to this mapping, empty at the top.
  let path: String
  private let mapping: Node.Mapping
  private let line: Int?
  private var left: [String: (key: Node, value: Node)] = [:]
  private var known: [String] = []

  init(_ node: Node, file: String, path: String, keys: [String]) throws(ControllerError) {
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

  func way(to key: String) -> String { path.isEmpty ? key : "\(path).\(key)" }

  func error(_ key: String, _ problem: String) -> ControllerError {
    .setting(file: file, line: left[key]?.value.mark?.line ?? line, key: way(to: key), problem: problem)
  }

  func node(_ key: String) -> Node? {
    guard let node = left[key]?.value else { return nil }
    if node.scalar?.string.isEmpty == true, node.scalar?.style == .plain { return nil }  // `key:` without a value
    return node
  }

  func missing(_ key: String, _ expected: String) -> ControllerError { error(key, "missing; expected \(expected)") }

  // MARK: Values

  func optionalText(_ key: String, _ expected: String) throws(ControllerError) -> String? {
    guard let node = node(key) else { return nil }
    guard let text = node.scalar?.string else { throw error(key, "expected \(expected)") }
    return text
  }

  func text(_ key: String, _ expected: String) throws(ControllerError) -> String {
    guard let text = try optionalText(key, expected) else { throw missing(key, expected) }
    return text
  }

  func name(_ key: String) throws(ControllerError) -> String {
    let text = try text(key, PlainName.rule)
    guard PlainName.isPlain(text) else { throw error(key, "\"\(text)\" is not \(PlainName.rule)") }
    return text
  }

  func optionalEndpoint(_ key: String) throws(ControllerError) -> Endpoint? {
    guard let text = try optionalText(key, "ADDRESS:PORT") else { return nil }
    guard let endpoint = Endpoint(text) else { throw error(key, "\"\(text)\" is not ADDRESS:PORT, for instance 10.0.0.1:7700") }
    return endpoint
  }

  func endpoint(_ key: String) throws(ControllerError) -> Endpoint {
    guard let endpoint = try optionalEndpoint(key) else { throw missing(key, "ADDRESS:PORT") }
    return endpoint
  }

  func optionalNumber(_ key: String, _ range: ClosedRange<Double>) throws(ControllerError) -> Double? {
    let expected = "a number from \(plain(range.lowerBound)) to \(plain(range.upperBound))"
    guard let text = try optionalText(key, expected) else { return nil }
    guard let number = Double(text), range.contains(number) else { throw error(key, "\"\(text)\" is not \(expected)") }
    return number
  }

  /// The elements of a list, each with its way; an absent list is empty.
  func list(_ key: String, _ expected: String) throws(ControllerError) -> [(path: String, node: Node)] {
    guard let node = node(key) else { return [] }
    guard case .sequence(let sequence) = node else { throw error(key, "must be a list of \(expected)") }
    return sequence.enumerated().map { ("\(way(to: key))[\($0.offset)]", $0.element) }
  }

  private func plain(_ number: Double) -> String { number == number.rounded() ? "\(Int(number))" : "\(number)" }
}
