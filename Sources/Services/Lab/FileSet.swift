import Foundation
import Vocabulary

/// The files that Debian's packages have put under /usr/share of this machine, in the order of their names, as contents of a disk image or a set of packages: a header of 512 octets
/// and the contents, padded to 512, for each. (What an ustar archive has; nobody unpacks it.)
package struct FileSet: Sendable {
  static let root = "/usr/share"
  /// Of the next version's files one in so many has another line in the middle, one is gone, and one is new: roughly a point release of a distribution.
  private static let changed = 40
  private static let gone = 200

  private let files: [(path: String, octets: Int)]
  package let totalOctets: Int

  package init(root: String = FileSet.root) {
    var files: [(path: String, octets: Int)] = []
    let keys: [FileAttributeKey] = [.type, .size]
    for name in (FileManager.default.enumerator(atPath: root)?.compactMap { $0 as? String } ?? []).sorted() {
      let path = "\(root)/\(name)"
      guard let attributes = try? FileManager.default.attributesOfItem(atPath: path), keys.allSatisfy({ attributes[$0] != nil }),
        attributes[.type] as? FileAttributeType == .typeRegular, let octets = attributes[.size] as? Int, octets > 0
      else { continue }
      files.append((path, octets))
    }
    self.files = files
    totalOctets = files.reduce(0) { $0 + FileSet.padded($1.octets) + 512 }
  }

  /// So many octets of the row, from a place in it on; at its end it begins again.
  ///
  /// - Parameter version: 1 is what is installed; each further one has other files changed.
  func object(_ size: Int, from start: Int, version: Int) -> BenchObject? {
    guard !files.isEmpty else { return nil }
    var octets: [UInt8] = []
    octets.reserveCapacity(size + (1 << 20))
    var place = 0
    var index = 0
    while place < start % totalOctets {
      place += FileSet.padded(files[index].octets) + 512
      index = (index + 1) % files.count
    }
    while octets.count < size {
      append(index, version, to: &octets)
      index = (index + 1) % files.count
    }
    octets.removeLast(octets.count - size)
    return BenchObject(octets)
  }

  private func append(_ index: Int, _ version: Int, to octets: inout [UInt8]) {
    guard let data = FileManager.default.contents(atPath: files[index].path) else { return }
    var draw = SeededGenerator(seed: UInt64(index) << 8 | UInt64(version))
    let dice = draw.next()
    var contents = [UInt8](data)
    if version > 1 {
      if dice % UInt64(FileSet.gone) == 1 { return }
      if dice % UInt64(FileSet.gone) == 2 {
        add(files[index].path + ".new", (0..<contents.count).map { _ in UInt8(truncatingIfNeeded: draw.next() >> 56) }, to: &octets)
      }
      if dice % UInt64(FileSet.changed) == 0 {
        contents.insert(contentsOf: Array("changed in version \(version): \(dice)\n".utf8), at: contents.count / 2)
      }
    }
    add(files[index].path, contents, to: &octets)
  }

  private func add(_ path: String, _ contents: [UInt8], to octets: inout [UInt8]) {
    let name = Array(path.utf8.prefix(255)) + [0] + Array("\(contents.count)".utf8)
    octets += name + [UInt8](repeating: 0, count: 512 - name.count)
    octets += contents + [UInt8](repeating: 0, count: FileSet.padded(contents.count) - contents.count)
  }

  private static func padded(_ octets: Int) -> Int { (octets + 511) / 512 * 512 }
}
