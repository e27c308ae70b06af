import Foundation
import FuzzHarness
import Testing
import Vocabulary

/// The fuzz targets without a fuzzer: what was found once, and octets by chance, so that a target that no longer holds is seen in every test run.
@Suite("The fuzz targets")
struct CorpusTests {
  static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()
    .appendingPathComponent("Fuzz/corpus")

  @Test("stand every input of their corpus", arguments: fuzzTargets.map(\.name))
  func corpus(name: String) throws {
    let target = try #require(fuzzTargets.first { $0.name == name })
    let files = try FileManager.default.contentsOfDirectory(at: Self.folder.appendingPathComponent(name), includingPropertiesForKeys: nil)
    #expect(files.count >= 10, "the corpus of \(name) is missing")
    for file in files { target.run(Array(try Data(contentsOf: file))) }
  }

  @Test("stand octets by chance", arguments: fuzzTargets.map(\.name))
  func chance(name: String) throws {
    let target = try #require(fuzzTargets.first { $0.name == name })
    var random = SeededGenerator(seed: 3)
    for _ in 0..<400 { target.run((0..<Int.random(in: 1...600, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }) }
  }
}
