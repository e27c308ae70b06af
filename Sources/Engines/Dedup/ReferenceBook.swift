import DequeModule
import NIOCore

/// The references of a receiver that are not passed on yet, in the order in which they came, across all lanes.
struct ReferenceBook: Sendable {
  private enum State: Sendable {
    /// A name and nothing else.
    case named
    /// The owner looks for its octets.
    case wanted
    case supplied(ByteBuffer)
    case delivered
  }

  private struct Entry: Sendable {
    let reference: ChunkReference
    /// How many octets of the flow had come before it.
    let position: Int
    var state = State.named

    var isThere: Bool {
      switch state {
      case .supplied, .delivered: true
      case .named, .wanted: false
      }
    }
  }

  private var entries: Deque<Entry> = []
  /// The ordinal of the first entry.
  private var first: UInt32 = 0
  /// Entries before this one have been asked for.
  private var nextToAsk = 0
  /// References that are supplied, from the first on without a gap.
  private(set) var resolvedCount: UInt32 = 0

  var count: Int { entries.count }

  mutating func trim() { if entries.isEmpty { entries = [] } }

  /// Its ordinal.
  mutating func append(_ reference: ChunkReference, at position: Int) -> UInt32 {
    entries.append(Entry(reference: reference, position: position))
    return first &+ UInt32(entries.count - 1)
  }

  /// The next reference that nobody has looked for, if it stands less than so many octets behind this position.
  mutating func nextToWant(after position: Int, within ahead: Int) -> (ordinal: UInt32, ChunkReference)? {
    while nextToAsk < entries.count {
      let entry = entries[nextToAsk]
      if case .named = entry.state {
        guard entry.position - position < ahead else { return nil }
        entries[nextToAsk].state = .wanted
        nextToAsk += 1
        return (first &+ UInt32(nextToAsk - 1), entry.reference)
      }
      nextToAsk += 1
    }
    return nil
  }

  /// The same for one reference, wherever it stands.
  mutating func want(_ ordinal: UInt32) -> ChunkReference? {
    guard let index = index(ordinal), case .named = entries[index].state else { return nil }
    entries[index].state = .wanted
    return entries[index].reference
  }

  mutating func supply(_ ordinal: UInt32, _ octets: ByteBuffer, verifiedBy namer: ChunkNamer?) throws(ChunkViolation) {
    guard let index = index(ordinal) else {
      // The store's answer, behind a CHUNK that was first.
      if namer == nil, isPast(ordinal) { return }
      throw .unknownOrdinal(ordinal)
    }
    let reference = entries[index].reference
    switch entries[index].state {
    case .wanted: break
    case .supplied, .delivered: if namer == nil { return } else { throw .notAskedFor(ordinal) }
    case .named: throw .notAskedFor(ordinal)
    }
    guard octets.readableBytes == reference.octets else { throw .otherLength(reference, octets: octets.readableBytes) }
    if let namer, octets.withUnsafeReadableBytes({ namer($0) }) != reference.name { throw .otherName(reference) }
    entries[index].state = .supplied(octets)
    while let entry = self.index(resolvedCount).map({ entries[$0] }), entry.isThere { resolvedCount &+= 1 }
  }

  /// The octets, if they are there; from now on the caller has them.
  mutating func take(_ ordinal: UInt32) -> ByteBuffer? {
    guard let index = index(ordinal), case .supplied(let octets) = entries[index].state else { return nil }
    entries[index].state = .delivered
    while case .delivered? = entries.first?.state {
      entries.removeFirst()
      first &+= 1
      nextToAsk -= 1
    }
    return octets
  }

  private func index(_ ordinal: UInt32) -> Int? {
    let index = Int(ordinal &- first)
    return index < entries.count ? index : nil
  }

  /// A reference of some time ago rather than one that is yet to come.
  private func isPast(_ ordinal: UInt32) -> Bool { ordinal &- first > UInt32.max / 2 }
}
