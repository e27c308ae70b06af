import Compression
import Flows
import Tunnel
import Vocabulary

/// One flow on one tunnel connection: its codec, and how far its two directions have come. An identifier may stand for another flow later; this object never does.
final class LinkFlow {
  let id: FlowID
  let target: FlowTarget
  /// `outbound` is ours, `inbound` the peer's.
  let terms: FlowTerms
  let codec: FlowCodec
  let since: Instant
  var hasSentEnd = false
  /// END has come; it is told to the flow's socket once all octets before it are.
  var hasReceivedEnd = false
  /// END has been told.
  var hasEnded = false
  /// Octets of the codec's pins that its link has counted.
  var countedPins = 0
  /// How often its link had been full when it sent last.
  var fillings = 0
  /// Since when octets are held for the end of their chunk.
  var heldSince: Instant?

  /// When something was last sent or received.
  var lastActive: Instant
  /// It has given up what it keeps only to be better prepared.
  var isResting = false
  /// What the peer's memory takes of this flow.
  var literals: LiteralWindow?

  init(id: FlowID, target: FlowTarget, terms: FlowTerms, codec: FlowCodec, since: Instant) {
    self.id = id
    self.target = target
    self.terms = terms
    self.codec = codec
    self.since = since
    lastActive = since
  }

  /// Both directions have ended: the flow is over, and only what was named may still be asked for.
  var isOver: Bool { hasSentEnd && hasEnded }
}
