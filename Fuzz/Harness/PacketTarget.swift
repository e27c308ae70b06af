import NIOCore
import SCTP
import Vocabulary

/// The readers of packets, chunks, parameters and cookies: raw octets, given the tag and the checksum that let them in.
package enum PacketTarget {
  private static let endpoint: Subject = {
    var pair = Pair(isDatagram: true, seed: 21)
    pair.runQuietly(for: .seconds(1.0))
    return pair.z
  }()
  private static let listener = Subject.listener(seed: 22)
  private static let now = Instant(nanoseconds: 3_000_000_000)

  package static func run(_ bytes: [UInt8]) {
    guard let first = bytes.first else { return }
    var packet = ByteBuffer(bytes: bytes.dropFirst())
    if packet.readableBytes >= 12 {
      if first & 1 == 0, let member = endpoint.member, let tag = endpoint.endpoint?.association(member)?.localVerificationTag {
        packet.setInteger(tag, at: 4)
      }
      if first & 2 == 0 { packet.writeChecksum() }
    }
    var (one, other) = (endpoint, listener)
    one.receive(packet, on: Subject.route(), at: now)
    one.settle(at: now)
    other.receive(packet, on: CarrierID(1), at: now)
    other.settle(at: now)
    _ = OutOfTheBlue.answer(to: packet, reason: "fuzz")
  }
}
