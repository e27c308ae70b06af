import DequeModule
import NIOCore

/// What a sender says of its flow, in order.
package enum EncodedPiece: Sendable, Hashable {
  /// What follows belongs to this lane. Lane 0 needs no saying at a flow's beginning. With `cut` added, the chunk that is open on that lane ends here.
  case lane(UInt16)
  case plain(ByteBuffer)
  case reference(ChunkReference)

  /// (wire) Added to a lane's number.
  package static let cut: UInt16 = 0x8000
}

/// Pieces that wait for the owner, and the references that it cannot forget yet. The owner takes all pieces after each append, which bounds the queue.
struct EncoderOutput: Sendable {
  private var pieces: Deque<EncodedPiece> = []
  private var lane: UInt16 = 0
  var pins = ChunkPins()

  mutating func plain(_ octets: ByteBuffer, on lane: UInt16) {
    guard octets.readableBytes > 0 else { return }
    choose(lane)
    pieces.append(.plain(octets))
  }

  mutating func reference(_ name: ChunkName, _ octets: ByteBuffer, on lane: UInt16) {
    choose(lane)
    pieces.append(.reference(ChunkReference(name: name, octets: octets.readableBytes)))
    pins.append(name, octets)
  }

  mutating func cut(on lane: UInt16) {
    self.lane = lane
    pieces.append(.lane(lane | EncodedPiece.cut))
  }

  mutating func next() -> EncodedPiece? { pieces.popFirst() }

  mutating func trim() {
    if pieces.isEmpty { pieces = [] }
    pins.trim()
  }

  private mutating func choose(_ lane: UInt16) {
    guard lane != self.lane else { return }
    self.lane = lane
    pieces.append(.lane(lane))
  }
}
