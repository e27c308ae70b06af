import Foundation
import Vocabulary

/// What is transferred: octets that follow from a kind, a size and a seed.
package final class BenchObject: Sendable {
  package enum Kind: String, Codable, Sendable, CaseIterable {
    /// Does not compress, and nothing in it comes twice.
    case random
    /// Lines of words from a vocabulary of 4,096, frequent ones more often, with numbers in between: zstd makes about a third of it.
    case text
    /// A row of this machine's own files (`FileSet`), as an archive has them; its next version has some of them changed.
    case image
  }

  package let octets: [UInt8]

  package init(_ octets: [UInt8]) { self.octets = octets }

  static func random(_ size: Int, seed: UInt64) -> BenchObject {
    var random = SeededGenerator(seed: seed)
    return BenchObject(
      [UInt8](unsafeUninitializedCapacity: size) { buffer, count in
        let raw = UnsafeMutableRawBufferPointer(buffer)
        var offset = 0
        while offset + 8 <= size {
          raw.storeBytes(of: random.next(), toByteOffset: offset, as: UInt64.self)
          offset += 8
        }
        while offset < size {
          raw[offset] = UInt8(truncatingIfNeeded: random.next())
          offset += 1
        }
        count = size
      })
  }

  static func text(_ size: Int, seed: UInt64) -> BenchObject {
    var random = SeededGenerator(seed: seed)
    // The vocabulary is the language's, not the text's: it is the same for every seed.
    var letters = SeededGenerator(seed: 1)
    let words: [[UInt8]] = (0..<4_096).map { rank in
      let length = 2 + (rank == 0 ? 0 : Int(log2(Double(rank)) / 2)) + Int.random(in: 0...3, using: &letters)
      return (0..<length).map { _ in UInt8(ascii: "a") + UInt8.random(in: 0..<26, using: &letters) }
    }
    var octets: [UInt8] = []
    octets.reserveCapacity(size + 64)
    var column = 0
    while octets.count < size {
      let dice = random.next()
      if dice & 63 == 0 {
        octets += Array("\(dice >> 40)".utf8)
      } else {
        // The product of two even draws prefers low ranks, somewhat as languages do.
        let rank = ((dice >> 8 & 4_095) * (dice >> 20 & 4_095)) >> 12
        octets += words[Int(rank)]
      }
      column += 1
      octets.append(column % 12 == 0 ? UInt8(ascii: "\n") : UInt8(ascii: " "))
    }
    octets.removeLast(octets.count - size)
    return BenchObject(octets)
  }
}
