import Yams

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// One YAML file of settings: its text, and the folder that relative paths in it are found from.
package struct SettingsFile: Sendable {
  /// 256 machines of two places are 50 KiB; more is no settings file.
  package static let maximumOctets = 1 << 20

  package let name: String
  /// Empty, or ending in a slash.
  package let folder: String
  private let text: String
  private let help: String

  /// - Parameter help: the page of the documentation that has an example.
  package init(contentsOf path: String, help: String) throws(SettingsError) {
    guard let data = FileManager.default.contents(atPath: path) else {
      throw .unreadable(file: path, reason: "cannot be read", help: help)
    }
    guard data.count <= SettingsFile.maximumOctets, let text = String(data: data, encoding: .utf8) else {
      throw .unreadable(file: path, reason: "is not a text of at most 1 MiB in UTF-8", help: help)
    }
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    self.init(text, name: path, folder: parts.count > 1 ? parts.dropLast().joined(separator: "/") + "/" : "", help: help)
  }

  package init(_ text: String, name: String, folder: String = "", help: String) {
    self.text = text
    self.name = name
    self.folder = folder
    self.help = help
  }

  /// The mapping at the top of the file.
  package func reader(keys: [String]) throws(SettingsError) -> SettingsReader {
    let root: Node?
    do { root = try Yams.compose(yaml: text) } catch {
      throw .unreadable(file: name, reason: SettingsFile.describe(error), help: help)
    }
    guard let root else { throw .unreadable(file: name, reason: "is empty", help: help) }
    return try SettingsReader(root, file: name, path: "", keys: keys)
  }

  /// Where a path in the file leads.
  package func located(_ path: String) -> String { path.hasPrefix("/") ? path : folder + path }

  private static func describe(_ error: any Error) -> String {
    guard let error = error as? YamlError else { return "is not YAML: \(error)" }
    switch error {
    case .scanner(_, let problem, let mark, _), .parser(_, let problem, let mark, _), .composer(_, let problem, let mark, _):
      return "is not YAML: \(problem) in line \(mark.line)"
    case .duplicatedKeysInMapping(let duplicates, let context):
      return "key \(duplicates.map { "\($0)" }.joined(separator: ", ")) stands twice in line \(context.mark.line) or behind it"
    default: return "is not YAML: \(String(describing: error).split(separator: "\n").joined(separator: " "))"
    }
  }
}
