extension Association {
  /// Octets that went out on a carrier that was left, or is no more, and that go out again, as far as is known now: looked at when a move is told, all that the move will have sent twice.
  package var octetsToSendAgain: Int { sent.reduce(0) { $0 + ($1.isLost ? $1.chunk.payload.readableBytes : 0) } }
}
