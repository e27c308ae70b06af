import CChecksum
import Vocabulary

/// Whom the bits of the beliefs stand for, over a restart: a text, a line for each slot, with a checksum in its first line.
///
/// A slot that was given to another peer has its old bits still in older records and in an older checkpoint. So each slot has the place in the log and the number of changes
/// (generation) at which its owner took it: what is older says nothing of that owner.
struct PeersFile: Equatable {
  struct Slot: Equatable {
    var owner: PeerSlots.Owner
    var since: Place
    var generation: UInt64
  }

  private static let title = "longhaul peers 1 "

  var slots = [Slot?](repeating: nil, count: PeerSlot.count)
  /// Counts the changes of owners.
  var generation: UInt64 = 0

  init() {}

  /// The bits that are to be believed of a record that was written there.
  func mask(at place: Place) -> UInt16 { mask { $0.since <= place } }
  /// ... and of a checkpoint of this generation.
  func mask(of checkpoint: Checkpoint) -> UInt16 { mask { $0.generation <= checkpoint.generation } }

  private func mask(_ isTrue: (Slot) -> Bool) -> UInt16 {
    slots.enumerated().reduce(0) { $0 | ($1.element.map(isTrue) == true ? 1 << UInt16($1.offset) : 0) }
  }

  var text: String {
    var body = "\(generation)\n"
    for (index, slot) in slots.enumerated() {
      guard let slot else { continue }
      let numbers = [UInt64(index), slot.generation, slot.since.packed, slot.owner.store].map { String($0, radix: 16) }
      body += (numbers + [slot.owner.peer.text]).joined(separator: " ") + "\n"
    }
    return PeersFile.title + String(PeersFile.checksum(of: body), radix: 16) + "\n" + body
  }

  /// Nil for anything but such a text, whole.
  init?(_ bytes: [UInt8]) {
    let lines = String(decoding: bytes, as: UTF8.self).split(separator: "\n", maxSplits: 1, omittingEmptySubsequences: false)
    guard lines.count == 2, lines[0].hasPrefix(PeersFile.title) else { return nil }
    let body = String(lines[1])
    guard UInt32(lines[0].dropFirst(PeersFile.title.count), radix: 16) == PeersFile.checksum(of: body) else { return nil }
    let rows = body.split(separator: "\n")
    guard let first = rows.first, let generation = UInt64(first) else { return nil }
    self.generation = generation
    for row in rows.dropFirst() {
      let words = row.split(separator: " ", maxSplits: 4)
      let numbers = words.prefix(4).compactMap { UInt64($0, radix: 16) }
      guard words.count == 5, numbers.count == 4, numbers[0] < UInt64(PeerSlot.count) else { return nil }
      let owner = PeerSlots.Owner(peer: NodeID(String(words[4])), store: numbers[3])
      slots[Int(numbers[0])] = Slot(owner: owner, since: Place(packed: numbers[2]), generation: numbers[1])
    }
  }

  private static func checksum(of text: String) -> UInt32 {
    Array(text.utf8).withUnsafeBytes { longhaul_crc32c(0, $0.baseAddress, $0.count) }
  }
}
