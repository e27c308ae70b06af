import Authentication
import Foundation
import LinuxNetwork

/// A ready guest that is kept between runs: QEMU's state of it, and the endpoint key that it knows.
struct SavedGuest: Sendable {
  let stateFile: String
  let keyLine: String
  private let folder: String

  /// Nil if none is wanted. What the guest was made from is part of the name, so that a guest never wakes up as another one.
  init?(_ settings: LabSettings, _ prerequisites: Prerequisites) throws {
    guard let base = settings.savedGuest else { return nil }
    var digest = Digest()
    let version = try Shell.run([prerequisites.path(of: "qemu-system-x86_64"), "--version"])
    let script = GuestImage.startScript(modules: GuestImage.modules, agentArguments: Nodes.agentArguments(settings))
    for text in [version, script, VirtualMachine.memory, "\(settings.usesKVM)", "\(settings.size.octets)"] {
      digest.update(Array(text.utf8))
    }
    for path in [prerequisites.agent, prerequisites.kernel] {
      let attributes = try FileManager.default.attributesOfItem(atPath: path)
      digest.update(Array("\(path) \(attributes[.size] ?? 0) \(attributes[.modificationDate] ?? 0)".utf8))
    }
    folder = "\(base)/\(digest.finish().prefix(16))"
    stateFile = "\(folder)/guest.state"
    let keyFile = "\(folder)/key"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    if let data = FileManager.default.contents(atPath: keyFile) {
      keyLine = String(decoding: data, as: UTF8.self).trimmingCharacters(in: .whitespacesAndNewlines)
    } else {
      keyLine = EndpointKey.newLine()
      try Data((keyLine + "\n").utf8).write(to: URL(fileURLWithPath: keyFile), options: .atomic)
      try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: keyFile)
    }
  }

  var exists: Bool { FileManager.default.fileExists(atPath: stateFile) }

  /// Keeps a new one; `save` writes it to the path that it is given, whole or not at all.
  func keep(_ save: (String) async throws -> Void) async throws {
    do {
      try await save(stateFile)
    } catch {
      try? FileManager.default.removeItem(atPath: stateFile)
      throw error
    }
  }
}
