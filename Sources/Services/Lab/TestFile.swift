import Foundation
import Vocabulary

/// The file that is downloaded: its contents follow from its seed, do not compress, and tell at every place which place it is.
///
/// It is a row of blocks of 4,096 octets. A block begins with its number and with a check of that number, the rest are random octets.
package struct TestFile: Sendable, Hashable {
  static let blockOctets = 4_096
  static let headerOctets = 16

  package let octets: Int
  package let seed: UInt64

  package init(octets: Int, seed: UInt64) {
    self.octets = octets
    self.seed = seed
  }

  /// The block's contents, whole even where the file ends within it.
  package func block(_ number: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(TestFile.blockOctets)
    append(UInt64(number), to: &bytes)
    append(check(of: UInt64(number)), to: &bytes)
    var random = SeededGenerator(seed: seed ^ UInt64(number) &* 0xd6e8_feb8_6659_fd93)
    while bytes.count < TestFile.blockOctets { append(random.next(), to: &bytes) }
    return bytes
  }

  /// The number of the block whose first 16 octets these are, if they are.
  func number(ofHeader header: ArraySlice<UInt8>) -> Int? {
    guard header.count == TestFile.headerOctets else { return nil }
    let value = header.prefix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    let check = header.suffix(8).reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard check == self.check(of: value), value <= UInt64(octets / TestFile.blockOctets) else { return nil }
    return Int(value)
  }

  private func check(of number: UInt64) -> UInt64 {
    var generator = SeededGenerator(seed: seed &* 3 ^ number)
    return generator.next()
  }

  private func append(_ value: UInt64, to bytes: inout [UInt8]) {
    for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(shift))) }
  }

  /// Writes it, and gives its SHA-256 in hexadecimal.
  func write(to path: String) throws -> String {
    guard FileManager.default.createFile(atPath: path, contents: nil), let handle = FileHandle(forWritingAtPath: path) else {
      throw CocoaError(.fileWriteUnknown)
    }
    defer { try? handle.close() }
    var digest = Digest()
    var offset = 0
    while offset < octets {
      var part: [UInt8] = []
      while part.count < 1 << 20, offset + part.count < octets { part += block((offset + part.count) / TestFile.blockOctets) }
      part.removeLast(max(0, offset + part.count - octets))
      digest.update(part)
      try handle.write(contentsOf: part)
      offset += part.count
    }
    return digest.finish()
  }
}
