import Logging
import NIOCore
import SCTP
import Sealing
import Sockets

/// One TCP connection that carries SCTP packets, each behind its length in 16 bits (RFC 4571 section 2), and sealed if its session is (docs/wire/sealing.md).
package final class Carrier: ChannelInboundHandler {
  package typealias InboundIn = ByteBuffer
  package typealias OutboundOut = ByteBuffer

  /// What a carrier tells its owner. All calls come on the channel's event loop.
  package struct Events {
    package var packet: (Carrier, ByteBuffer) -> Void
    /// The packets of one read have all been handed over.
    package var readComplete: (Carrier) -> Void
    package var writability: (Carrier, Bool) -> Void
    /// The other side says, unsigned, that it does not know the session; the carrier closes.
    package var unknownSession: (Carrier) -> Void
    /// Once, with the reason in words.
    package var closed: (Carrier, String) -> Void

    package init(
      packet: @escaping (Carrier, ByteBuffer) -> Void, readComplete: @escaping (Carrier) -> Void,
      writability: @escaping (Carrier, Bool) -> Void, unknownSession: @escaping (Carrier) -> Void = { _ in },
      closed: @escaping (Carrier, String) -> Void
    ) {
      self.packet = packet
      self.readComplete = readComplete
      self.writability = writability
      self.unknownSession = unknownSession
      self.closed = closed
    }
  }

  /// Above the high mark the association packs no DATA. Together with TCP_NOTSENT_LOWAT this is what a handover may have to send twice beyond what is in flight.
  package static let waterMarks = ChannelOptions.Types.WriteBufferWaterMark(low: 64 << 10, high: 128 << 10)
  /// Octets that the kernel may hold unsent (TCP_NOTSENT_LOWAT): enough for 10 ms at 100 Mbit/s.
  package static let notSentLowWater = 128 << 10

  package let id: CarrierID
  package var events: Events
  private var context: ChannelHandlerContext?
  private var partial = ByteBuffer()
  private var isClosed = false
  private var closeReason: String?
  private var sealer: PacketSealer?
  private var opener: PacketOpener?
  /// Goes out before the first frame.
  private var preface: SealedPreface?

  package init(id: CarrierID, events: Events) {
    self.id = id
    self.events = events
  }

  package var channel: (any Channel)? { context?.channel }
  /// Room that is taken for a packet that has come in part.
  package var octetsKept: Int { partial.capacity }
  package var isWritable: Bool { context?.channel.isWritable ?? false }

  package func write(_ packet: ByteBuffer) {
    guard let context else { return }
    if sealer != nil { return writeSealed(packet, context) }
    precondition(packet.readableBytes <= 65_535)
    var length = context.channel.allocator.buffer(capacity: 2)
    length.writeInteger(UInt16(packet.readableBytes))
    context.write(wrapOutboundOut(length), promise: nil)
    context.write(wrapOutboundOut(packet), promise: nil)
  }

  private func writeSealed(_ packet: ByteBuffer, _ context: ChannelHandlerContext) {
    let octets = packet.readableBytes + Sealing.overhead
    precondition(octets <= 65_535)
    var frame = context.channel.allocator.buffer(capacity: SealedPreface.octetCount + 2 + octets)
    preface?.write(into: &frame)
    preface = nil
    frame.writeInteger(UInt16(octets))
    sealer?.seal(packet, into: &frame)
    context.write(wrapOutboundOut(frame), promise: nil)
  }

  package func flush() { context?.flush() }

  /// Closes without waiting for what is unsent: its packets are the association's, which sends them again elsewhere.
  package func close(_ reason: String) {
    guard !isClosed else { return }
    closeReason = closeReason ?? reason
    context?.close(promise: nil)
  }

  /// Closes after what has been written has gone out, for a last word such as an ABORT.
  package func closeAfterFlush(_ reason: String) {
    guard !isClosed, let context else { return }
    closeReason = closeReason ?? reason
    let isolated = context.writeAndFlush(wrapOutboundOut(ByteBuffer())).assumeIsolated()
    isolated.whenComplete { _ in self.close(reason) }
  }
}

// MARK: Sealing

extension Carrier {
  /// From now on what goes out is sealed; a later carrier of a session says first whose it is.
  package func seal(with sealer: PacketSealer, preface: SealedPreface? = nil) {
    self.sealer = sealer
    self.preface = preface
  }

  /// From now on only sealed packets are taken in.
  package func expectSealed(by opener: PacketOpener) { self.opener = opener }

  /// What stood in one frame: a packet, sealed or not, or a notice.
  private func take(_ frame: ByteBuffer) {
    guard opener != nil else { return events.packet(self, frame) }
    if frame.readableBytes == 1 { return takeNotice(frame.getInteger(at: frame.readerIndex) ?? 0) }
    do throws(SealError) {
      if let packet = try opener?.open(frame) { events.packet(self, packet) }
    } catch {
      close("\(error)")
    }
  }

  private func takeNotice(_ value: UInt8) {
    if SealedNotice(rawValue: value) == .unknownSession {
      events.unknownSession(self)
      close("the agent does not know this session")
    } else {
      close("an unknown notice (\(value))")
    }
  }
}

extension Carrier {
  package func handlerAdded(context: ChannelHandlerContext) { self.context = context }

  package func handlerRemoved(context: ChannelHandlerContext) {
    self.context = nil
    tellClosed("removed from its channel")
  }

  package func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var bytes = unwrapInboundIn(data)
    if partial.readableBytes > 0, !completePartial(from: &bytes) { return }
    while !isClosed, let length = bytes.getInteger(at: bytes.readerIndex, as: UInt16.self), bytes.readableBytes >= 2 + Int(length) {
      bytes.moveReaderIndex(forwardBy: 2)
      guard let packet = bytes.readSlice(length: Int(length)) else { break }
      take(packet)
    }
    guard bytes.readableBytes > 0, !isClosed else { return }  // less than one packet, 65,537 octets
    // Who has sent some of a packet gets room for all of it at once; who has only begun must not cost 64 KB.
    let whole = 2 + Int(bytes.getInteger(at: bytes.readerIndex, as: UInt16.self) ?? 0)
    partial = context.channel.allocator.buffer(capacity: bytes.readableBytes >= 1_024 ? whole : bytes.readableBytes)
    partial.writeBuffer(&bytes)
  }

  /// Adds what the packet that came in part lacks, and nothing more: octet by octet, too, each is copied once. False: it still lacks some.
  private func completePartial(from bytes: inout ByteBuffer) -> Bool {
    while true {
      let length = partial.getInteger(at: partial.readerIndex, as: UInt16.self)
      let lack = (length.map { 2 + Int($0) } ?? 2) - partial.readableBytes
      if lack == 0, length != nil { break }
      guard let more = bytes.readSlice(length: min(lack, bytes.readableBytes)), more.readableBytes > 0 else { return false }
      partial.writeImmutableBuffer(more)
    }
    var packet = partial
    partial = ByteBuffer()
    packet.moveReaderIndex(forwardBy: 2)
    take(packet)
    return true
  }

  package func channelReadComplete(context: ChannelHandlerContext) {
    guard !isClosed else { return }
    events.readComplete(self)
  }

  package func channelWritabilityChanged(context: ChannelHandlerContext) {
    guard !isClosed else { return }
    events.writability(self, context.channel.isWritable)
  }

  package func errorCaught(context: ChannelHandlerContext, error: any Error) {
    closeReason = closeReason ?? describe(error)
    context.close(promise: nil)
  }

  package func channelInactive(context: ChannelHandlerContext) {
    tellClosed("closed by the other side")
    context.fireChannelInactive()
  }

  private func tellClosed(_ reason: String) {
    guard !isClosed else { return }
    isClosed = true
    events.closed(self, closeReason ?? reason)
  }
}
