import Flows
import Vocabulary

/// One flow whose octets are coded: its codec, and how far its two directions have come. An identifier may stand for another flow later; this object never does.
package final class CodedFlow {
  package let id: FlowID
  package let codec: FlowCodec
  var hasSentEnd = false
  /// END has come; it is told to the flow's socket once all octets before it are.
  var hasReceivedEnd = false
  /// END has been told.
  var hasEnded = false
  /// Octets of the codec's pins that have been counted.
  var countedPins = 0
  /// It has sent in this turn, and is told when the turn ends.
  var hasSent = false
  /// Since when octets are held for the end of their chunk.
  var heldSince: Instant?

  init(id: FlowID, codec: FlowCodec) {
    self.id = id
    self.codec = codec
  }

  /// Both directions have ended: the flow is over, and only what was named may still be asked for.
  var isOver: Bool { hasSentEnd && hasEnded }
}
