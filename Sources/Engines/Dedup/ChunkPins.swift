import DequeModule
import NIOCore

/// The chunks that were named to the peer and may still be asked for: a reference is never to something that the sender has forgotten.
struct ChunkPins: Sendable {
  private struct Pin: Sendable {
    let name: ChunkName
    var octets: ByteBuffer
    var wasAsked = false
  }

  private var pins: Deque<Pin> = []
  /// The ordinal of the first pin.
  private var first: UInt32 = 0
  private(set) var octets = 0

  var count: Int { pins.count }

  mutating func append(_ name: ChunkName, _ octets: ByteBuffer) {
    pins.append(Pin(name: name, octets: octets))
    self.octets += octets.readableBytes
  }

  mutating func trim() { if pins.isEmpty { pins = [] } }

  /// The peer has the chunks of the first `count` references, modulo 2^32.
  mutating func resolved(upTo count: UInt32) throws(ChunkViolation) {
    let gone = Int(count &- first)
    guard gone <= pins.count else { throw .resolvedTooMany(count, underWay: pins.count) }
    for pin in pins.prefix(gone) { octets -= pin.octets.readableBytes }
    pins.removeFirst(gone)
    first = count
  }

  /// Once for each: a peer cannot have the same chunk sent again and again.
  mutating func missing(_ ordinal: UInt32) throws(ChunkViolation) -> (ChunkName, ByteBuffer) {
    let index = Int(ordinal &- first)
    guard index < pins.count else { throw .unknownOrdinal(ordinal) }
    guard !pins[index].wasAsked else { throw .askedTwice(ordinal) }
    pins[index].wasAsked = true
    return (pins[index].name, pins[index].octets)
  }

  /// The pins from this one on are slices of one buffer: where they are a small part of it, they are copied out, so that they do not keep it alive.
  mutating func leaveBuffer(from index: Int, capacity: Int) {
    let ours = pins[index...].reduce(0) { $0 + $1.octets.readableBytes }
    guard ours > 0, capacity > 4 * ours + 256 else { return }
    for index in index..<pins.count where pins[index].octets.storageCapacity >= capacity {
      pins[index].octets = ByteBuffer(bytes: pins[index].octets.readableBytesView)
    }
  }
}
