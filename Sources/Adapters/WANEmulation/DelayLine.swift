import Vocabulary

/// Packets that are under way, oldest first, in one ring of memory. Delays are constant, so they leave in the order in which they came.
struct DelayLine: ~Copyable {
  /// 2 x 62.5 MB: 1 Gbit/s x 500 ms one way, twice.
  static let defaultCapacity = 128 << 20
  /// One packet with its header.
  static let longestPacket = 66_000

  private struct Slot {
    var due: Instant
    var offset: Int
    var length: Int
  }

  private let memory: UnsafeMutableRawBufferPointer
  private var slots: [Slot] = []
  private var first = 0
  private var end = 0

  init(capacity: Int = DelayLine.defaultCapacity) {
    // Untouched pages cost nothing.
    memory = .allocate(byteCount: capacity, alignment: 64)
    slots.reserveCapacity(1 << 16)
  }

  deinit { memory.deallocate() }

  var nextDue: Instant? { first < slots.count ? slots[first].due : nil }

  /// False: full.
  mutating func append(_ bytes: UnsafeRawBufferPointer, due: Instant) -> Bool {
    let oldest = first < slots.count ? slots[first].offset : nil
    var start = end
    if memory.count - start < bytes.count { start = 0 }
    if let oldest {
      // The free part is from `end` up to the oldest packet, around the corner perhaps.
      let isFree = end > oldest ? (start == end || start + bytes.count < oldest) : (start == end && start + bytes.count < oldest)
      guard isFree else { return false }
    }
    UnsafeMutableRawBufferPointer(rebasing: memory[start..<(start + bytes.count)]).copyMemory(from: bytes)
    slots.append(Slot(due: due, offset: start, length: bytes.count))
    end = start + bytes.count
    return true
  }

  /// Takes out the oldest packet if it is due.
  mutating func takeDue(at now: Instant, _ body: (UnsafeRawBufferPointer, _ lateness: TimeSpan) -> Void) -> Bool {
    guard first < slots.count, slots[first].due <= now else { return false }
    let slot = slots[first]
    body(UnsafeRawBufferPointer(rebasing: memory[slot.offset..<(slot.offset + slot.length)]), now - slot.due)
    first += 1
    if first == slots.count {
      slots.removeAll(keepingCapacity: true)
      first = 0
      end = 0
    } else if first >= 1 << 16, first * 2 >= slots.count {
      slots.removeFirst(first)
      first = 0
    }
    return true
  }
}
