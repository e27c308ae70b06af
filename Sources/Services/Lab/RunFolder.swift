import Foundation
import LinuxNetwork
import Vocabulary

/// The one run that a machine can have at a time: its lock, its folder, and the removal of what a run that was killed has left.
package final class RunFolder: Sendable {
  package static let path = "/run/longhaul-lab"
  private static let lockPath = "/run/longhaul-lab.lock"
  /// Every namespace of the lab is named so, and nothing else is.
  package static let namespacePrefix = "lhlab-"

  /// How long the kernel may take to bury a killed run: it unmaps hundreds of megabytes.
  private static let patience = TimeSpan.seconds(2 as Int64)

  private let lock: Int32

  /// Takes the lock and clears the ground.
  package init() throws(LabError) {
    let descriptor = open(RunFolder.lockPath, O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw .network(SystemError("open \(RunFolder.lockPath)").description) }
    // A run that was killed a moment ago may not be gone yet.
    let deadline = ContinuousClock.now + .seconds(RunFolder.patience.seconds)
    while flock(descriptor, LOCK_EX | LOCK_NB) != 0 {
      guard ContinuousClock.now < deadline else {
        close(descriptor)
        throw .running(lock: RunFolder.lockPath)
      }
      usleep(20_000)
    }
    lock = descriptor
    RunFolder.clear()
    do {
      try FileManager.default.createDirectory(
        atPath: RunFolder.path, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    } catch {
      throw .network("cannot make \(RunFolder.path): \(error)")
    }
  }

  /// A bench that has begun waits for another run's end as long as a long one takes.
  private static let longPatience = TimeSpan.seconds(600 as Int64)
  private static let pause = TimeSpan.milliseconds(500 as Int64)

  /// Takes it when it is free. `onWait` is called once, if that is not now.
  static func taken(onWait: () -> Void) async throws -> RunFolder {
    let deadline = ContinuousClock.now + .seconds(RunFolder.longPatience.seconds)
    var hasSaidSo = false
    while true {
      do throws(LabError) {
        return try RunFolder()
      } catch {
        guard case .running = error, ContinuousClock.now < deadline else { throw error }
      }
      if !hasSaidSo { onWait() }
      hasSaidSo = true
      try await Task.sleep(for: .nanoseconds(RunFolder.pause.nanoseconds))
    }
  }

  /// Ends every process in the lab's namespaces, and removes them and the folder.
  static func clear() {
    for namespace in Namespace.all(prefix: namespacePrefix) { namespace.delete() }
    try? FileManager.default.removeItem(atPath: path)
  }

  func file(_ name: String) -> String { "\(RunFolder.path)/\(name)" }

  func write(_ text: String, to name: String) throws(LabError) -> String {
    let path = file(name)
    do {
      try Data(text.utf8).write(to: URL(fileURLWithPath: path))
      try FileManager.default.setAttributes([.posixPermissions: 0o600], ofItemAtPath: path)
    } catch {
      throw .network("cannot write \(path): \(error)")
    }
    return path
  }

  /// Copies the logs of all parts to where the user wants them; those of one part, if it has a folder of its own within this one.
  func keepLogs(in folder: String, from part: String = "") {
    RunFolder.keepLogs(of: part, from: part.isEmpty ? RunFolder.path : file(part), in: folder)
  }

  /// Copies all logs of a folder, with a part's name before theirs if there is one.
  static func keepLogs(of part: String, from source: String, in folder: String) {
    let manager = FileManager.default
    try? manager.createDirectory(atPath: folder, withIntermediateDirectories: true)
    for name in (try? manager.contentsOfDirectory(atPath: source)) ?? [] where name.hasSuffix(".log") {
      let copy = "\(folder)/\(part.isEmpty ? "" : part + "-")\(name)"
      try? manager.removeItem(atPath: copy)
      try? manager.copyItem(atPath: "\(source)/\(name)", toPath: copy)
    }
  }

  /// Removes everything and gives the lock back.
  package func remove() {
    RunFolder.clear()
    close(lock)
  }
}
