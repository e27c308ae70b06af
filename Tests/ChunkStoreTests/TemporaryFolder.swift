import ChunkStores
import Foundation
import Logging
import TestSupport
import Testing

/// A folder for one test, gone with it; and what stores in it have logged.
final class TemporaryFolder: Sendable {
  let path: String
  let log = LogLines()

  init(inside parent: String = FileManager.default.temporaryDirectory.path) throws {
    path = URL(fileURLWithPath: parent).appendingPathComponent("chunks-\(UUID().uuidString)").path
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func open(capacity: Int) throws -> DiskChunkStore { try DiskChunkStore(folder: path, capacity: capacity, logger: log.logger()) }

  /// A store that is closed afterwards.
  func with<Result>(capacity: Int, _ body: (DiskChunkStore) async throws -> Result) async throws -> Result {
    let store = try open(capacity: capacity)
    do {
      let result = try await body(store)
      await store.close()
      return result
    } catch {
      await store.close()
      throw error
    }
  }

  func logged(_ part: String) -> Int { log.all.count { $0.contains(part) } }

  var files: [String] { (try? FileManager.default.contentsOfDirectory(atPath: path).sorted()) ?? [] }
  var segments: [String] { files.filter { $0.hasPrefix("segment-") } }
  func octets(of file: String) -> Int {
    ((try? FileManager.default.attributesOfItem(atPath: "\(path)/\(file)"))?[.size] as? Int) ?? 0
  }

  /// A copy as it stands at this moment, while a store may be writing it: what a kill leaves.
  func copy() throws -> TemporaryFolder {
    let other = try TemporaryFolder()
    try FileManager.default.createDirectory(atPath: other.path, withIntermediateDirectories: false)
    for file in files { try? FileManager.default.copyItem(atPath: "\(path)/\(file)", toPath: "\(other.path)/\(file)") }
    return other
  }

  func data(of file: String) throws -> Data { try Data(contentsOf: URL(fileURLWithPath: "\(path)/\(file)")) }
  func write(_ data: Data, to file: String) throws { try data.write(to: URL(fileURLWithPath: "\(path)/\(file)")) }
}
