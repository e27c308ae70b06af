import Compression
import Flows
import NIOCore
import Tunnel

/// The codecs of one flow. It lives from OPEN until both directions have said END or RESET, as the flow's table entry does.
final class FlowCodec {
  /// Nil once this end has ended its direction.
  private var encoder: FlowEncoder?
  private var decoder: FlowDecoder?
  /// `outbound` is ours, `inbound` the peer's.
  private(set) var terms: FlowTerms
  private var hasSentEnd = false
  private var hasReceivedEnd = false
  private(set) var statistics = FlowStatistics()
  let target: FlowTarget

  init(target: FlowTarget, terms: FlowTerms) {
    self.target = target
    self.terms = terms
    encoder = FlowEncoder()
    decoder = FlowDecoder()
  }

  /// OPENED has told how the acceptor's DATA is coded.
  func answered(_ coding: DataCoding) { terms.inbound = coding }

  /// The kind and payload of the frame for one batch; a compressed one has `TunnelLimits.headerOctets` free before it.
  func encode(_ plain: ByteBuffer) -> (kind: TunnelFrame.Kind, payload: ByteBuffer) {
    statistics.plainSent += plain.readableBytes
    guard terms.outbound == .zstd, let encoded = encoder?.encode(plain, reserving: TunnelLimits.headerOctets) else {
      statistics.wireSent += plain.readableBytes
      return (terms.outbound == .plain ? .data : .literal, plain)
    }
    switch encoded {
    case .literal(let bytes):
      statistics.wireSent += bytes.readableBytes
      return (.literal, bytes)
    case .compressed(let bytes):
      statistics.wireSent += bytes.readableBytes
      return (.data, bytes)
    }
  }

  /// The octets that a DATA stands for.
  func decode(_ payload: ByteBuffer) throws(DecompressionError) -> ByteBuffer {
    guard terms.inbound == .zstd else { return literal(payload) }
    statistics.wireReceived += payload.readableBytes
    let plain = try decoder?.decode(payload, atMost: TunnelLimits.dataOctets) ?? ByteBuffer()
    statistics.plainReceived += plain.readableBytes
    return plain
  }

  func literal(_ payload: ByteBuffer) -> ByteBuffer {
    statistics.wireReceived += payload.readableBytes
    statistics.plainReceived += payload.readableBytes
    return payload.withoutSpare()
  }

  /// True if the other direction has ended before.
  func sentEnd() -> Bool {
    hasSentEnd = true
    encoder = nil
    return hasReceivedEnd
  }

  func receivedEnd() -> Bool {
    hasReceivedEnd = true
    decoder = nil
    return hasSentEnd
  }
}
