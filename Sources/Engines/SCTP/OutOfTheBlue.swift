import NIOCore

/// A packet of an association that this end does not know (RFC 9260 section 8.4).
package enum OutOfTheBlue {
  /// The ABORT that tells its sender so: with the T bit, and the tag that the packet bore, since ours is not known (point 8). Nil for what must not be answered: no whole packet, or one that
  /// holds an ABORT itself (point 2).
  package static func answer(to bytes: ByteBuffer, reason: String) -> ByteBuffer? {
    guard let packet = try? Packet(bytes), !packet.chunks.contains(where: { $0.known == .abort || $0.known == .shutdownComplete }) else {
      return nil
    }
    var builder = PacketBuilder(
      PacketHeader(
        sourcePort: packet.header.destinationPort, destinationPort: packet.header.sourcePort, verificationTag: packet.header.verificationTag
      ))
    builder.append(.abort, flags: 1) { $0.writeAbortCause(reason) }
    return builder.finish()
  }
}
