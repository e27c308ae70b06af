import Vocabulary

/// Gives out objects, no two alike.
package struct ObjectSupply: Sendable {
  private let files: FileSet?
  private var seed: UInt64
  /// The place in the row of files from which the next image begins.
  private var start = 0

  package init(files: FileSet?, seed: UInt64) {
    self.files = files
    self.seed = seed
  }

  /// The versions of a new object.
  package mutating func next(_ kind: BenchObject.Kind, _ size: Int, versions: Int = 1) throws(LabError) -> [BenchObject] {
    seed &+= 1
    switch kind {
    case .random: return [.random(size, seed: seed)]
    case .text: return [.text(size, seed: seed)]
    case .image:
      defer { start += size }
      let found = (1...versions).compactMap { files?.object(size, from: start, version: $0) }
      guard found.count == versions else {
        throw .missingFile(FileSet.root, hint: "there are no files in it, and the contents `image` is made of them")
      }
      return found
    }
  }
}
