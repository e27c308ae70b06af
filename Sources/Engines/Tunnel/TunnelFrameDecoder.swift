import Flows
import NIOCore

/// Cuts a stream of octets into frames. It keeps at most one incomplete frame and what came in the same read; it never traps on what a peer sends.
package struct TunnelFrameDecoder: Sendable {
  /// What one read brought; frames are cut out of it without a copy.
  private var fresh = ByteBuffer()
  /// The frame that the last read left incomplete, in storage of its own: only it is ever copied.
  private var partial = ByteBuffer()
  /// True once HELLO has been read: before, nothing but a short HELLO or GOODBYE is believed.
  private var hasBegun = false

  package init() {}

  package var bufferedOctets: Int { fresh.readableBytes + partial.readableBytes }

  /// Takes what was read. Ask `next` for frames until it has none before the next call.
  package mutating func append(_ bytes: ByteBuffer) {
    if fresh.readableBytes == 0 { fresh = bytes } else { fresh.writeImmutableBuffer(bytes) }
  }

  /// The next whole frame, or nil. After a throw the stream is useless.
  package mutating func next() throws(TunnelViolation) -> TunnelFrame? {
    if partial.readableBytes > 0 {
      while true {
        let missing = try missing(in: partial)
        guard missing > 0 else { break }
        guard let more = fresh.readSlice(length: min(missing, fresh.readableBytes)), more.readableBytes > 0 else { return nil }
        partial.writeImmutableBuffer(more)
      }
      let frame = try TunnelFrameDecoder.take(from: &partial)
      partial = ByteBuffer()
      hasBegun = true
      return frame
    }
    guard fresh.readableBytes > 0 else { return nil }
    if try missing(in: fresh) == 0 {
      let frame = try TunnelFrameDecoder.take(from: &fresh)
      hasBegun = true
      if fresh.readableBytes == 0 { fresh = ByteBuffer() }  // lets go of the read's storage
      return frame
    }
    partial.writeImmutableBuffer(fresh)
    fresh = ByteBuffer()
    return nil
  }

  /// Octets that are missing to know the length of the frame at the front, or to have all of it; 0 if it is whole.
  private func missing(in buffer: ByteBuffer) throws(TunnelViolation) -> Int {
    let start = buffer.readerIndex
    guard let first: UInt8 = buffer.getInteger(at: start) else { return TunnelLimits.headerOctets }
    guard let kind = TunnelFrame.Kind(rawValue: first) else { throw hasBegun ? .unknownKind(first) : .notATunnel }
    guard hasBegun || kind == .hello || kind == .goodbye else { throw .notATunnel }
    guard buffer.readableBytes >= TunnelLimits.headerOctets, let word: UInt32 = buffer.getInteger(at: start) else {
      return TunnelLimits.headerOctets - buffer.readableBytes
    }
    let length = Int(word & 0xff_ffff)
    guard length <= TunnelFrameDecoder.limit(kind) else { throw hasBegun ? .tooLong(kind, octets: length) : .notATunnel }
    return max(TunnelLimits.headerOctets + length - buffer.readableBytes, 0)
  }

  /// Reads the frame at the front, which is known to be whole.
  private static func take(from buffer: inout ByteBuffer) throws(TunnelViolation) -> TunnelFrame {
    guard let word = buffer.readInteger(as: UInt32.self), let flow = buffer.readInteger(as: UInt32.self),
      let kind = TunnelFrame.Kind(rawValue: UInt8(word >> 24)), let payload = buffer.readSlice(length: Int(word & 0xff_ffff))
    else { throw .notATunnel }
    return try TunnelFrame(kind: kind, flow: FlowID(flow), payload: payload)
  }

  private static func limit(_ kind: TunnelFrame.Kind) -> Int {
    switch kind {
    case .data, .literal, .chunk, .pad: TunnelLimits.payloadOctets
    case .have: TunnelLimits.haveOctets
    default: TunnelLimits.controlOctets
    }
  }
}
