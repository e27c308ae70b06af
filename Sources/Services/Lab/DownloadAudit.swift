/// Compares what the application gets with what was sent, octet by octet, as it comes: what is missing, what came twice.
///
/// Where the two differ it looks for the next block's beginning and reckons from there. A stretch that arrives shorter than it was sent has lost octets; one
/// that arrives longer has some twice (or foreign ones, which the digest then tells).
package struct DownloadAudit: Sendable {
  private let file: TestFile
  private(set) var received = 0
  private(set) var lost = 0
  private(set) var duplicated = 0
  private var digest = Digest()
  /// Where in the file the next octet belongs.
  private var position = 0
  private var block: [UInt8] = []
  private var blockNumber = -1
  /// After a difference: what has come since, in which a block's beginning is looked for. Two blocks hold one for certain, if the data is ours.
  private var astray: [UInt8]?
  private static let longestSearch = 2 * TestFile.blockOctets

  /// What came last is not where it belongs, and no block's beginning has come since.
  var isAstray: Bool { astray != nil }

  package init(_ file: TestFile) { self.file = file }

  package mutating func take(_ bytes: [UInt8]) {
    received += bytes.count
    digest.update(bytes)
    var rest = bytes[...]
    while !rest.isEmpty {
      if astray != nil {
        astray? += rest
        rest = search()
      } else {
        rest = compare(rest)
      }
    }
  }

  /// Goes along the file up to the first difference, and gives what is left: nothing, unless the search has to begin.
  private mutating func compare(_ bytes: ArraySlice<UInt8>) -> ArraySlice<UInt8> {
    var rest = bytes
    while !rest.isEmpty {
      let number = position / TestFile.blockOctets
      if number != blockNumber {
        block = file.block(number)
        blockNumber = number
      }
      let start = position % TestFile.blockOctets
      let known = block[start..<min(TestFile.blockOctets, start + max(file.octets - position, 0))]
      let count = min(rest.count, known.count)
      let isEqual = count > 0 && rest.prefix(count).elementsEqual(known.prefix(count))
      let equal = isEqual ? count : zip(rest, known).prefix { $0 == $1 }.count
      position += equal
      rest = rest.dropFirst(equal)
      guard isEqual else {
        astray = []
        return rest
      }
    }
    return rest
  }

  /// Looks for a block's beginning in what has come since the difference; from there on it is compared again.
  private mutating func search() -> ArraySlice<UInt8> {
    guard let bytes = astray else { return [] }
    var index = 0
    while index + TestFile.headerOctets <= bytes.count {
      if let number = file.number(ofHeader: bytes[index..<(index + TestFile.headerOctets)]) {
        account(arrived: index, sent: number * TestFile.blockOctets - position)
        position = number * TestFile.blockOctets
        astray = nil
        return bytes[index...]
      }
      index += 1
    }
    if bytes.count > DownloadAudit.longestSearch {
      // Foreign octets: none of them was sent.
      duplicated += bytes.count - TestFile.headerOctets
      astray = Array(bytes.suffix(TestFile.headerOctets))
    }
    return []
  }

  /// Between the last right octet and the next known place so many octets came, where so many were sent; negative: the place lies behind us.
  private mutating func account(arrived: Int, sent: Int) {
    if sent > arrived { lost += sent - arrived } else { duplicated += arrived - sent }
  }

  package struct Verdict: Sendable, Hashable {
    package var octets: Int
    package var lost: Int
    package var duplicated: Int
    package var digest: String
  }

  /// The stream has ended.
  package mutating func finish() -> Verdict {
    if let rest = astray {
      account(arrived: rest.count, sent: file.octets - position)
    } else {
      lost += file.octets - position
    }
    return Verdict(octets: received, lost: lost, duplicated: duplicated, digest: digest.finish())
  }
}
