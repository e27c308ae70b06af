import Vocabulary

/// The bounds of the tunnel's protocol. Both ends must agree on those marked (wire).
package enum TunnelLimits {
  /// (wire) The version that this program speaks; two ends must speak the same.
  package static let version: UInt8 = 2
  /// (wire) Type (1), length (3), flow (4).
  package static let headerOctets = 8
  /// (wire) Application octets in one DATA or LITERAL, after decoding: 32 KiB, so that a small flow waits at most 2.7 ms at 96 Mbit/s behind another
  /// flow's frame. It also bounds what one frame can be blown up to.
  package static let dataOctets = 32 << 10
  /// The first octets of a flow, and of a connection, go out in smaller frames, of which one segment holds each: of a frame that lies across a closed window, or a lost segment,
  /// nothing can be used before its end has come, a round trip later.
  package static let youngDataOctets = 1_400
  /// So many of a flow: what an agent sends again after a move at 5 Mbit/s and 100 ms.
  package static let youngFlowOctets = 64 << 10
  /// So many of a connection, its padding included: a receiver's window begins at 64 KiB and grows about threefold in a round trip; it has passed this after three.
  package static let youngConnectionOctets = 512 << 10
  /// (wire) The longest payload: `dataOctets`, plus what an encoder may add to data that does not shrink (zstd: ZSTD_compressBound(32 KiB) - 32 KiB
  /// = 176 octets, frame header and end 21).
  package static let payloadOctets = dataOctets + 512
  /// (wire) The longest payload of any other frame: HELLO with two names of 64 octets is 174.
  package static let controlOctets = 512
  /// (wire) Chunk names in one HAVE: 8,000 octets, 0.6 ms at 100 Mbit/s, so that nothing waits for them.
  package static let namesAtOnce = 400
  /// (wire) The longest payload of HAVE: the store's identity, a node's name, the chunks' names.
  package static let haveOctets = 8 + 1 + nameOctets + namesAtOnce * 20
  /// (wire) A tenant's name in OPEN.
  package static let tenantOctets = 32
  /// (wire) A node's name in HELLO.
  package static let nameOctets = 64
  /// (wire) The text of a GOODBYE.
  package static let textOctets = 200
  package static let nonceOctets = 32
  package static let proofOctets = 32
  /// From a TCP connection to a tunnel connection: two round trips of 500 ms, and three lost segments (1 + 2 + 4 s).
  package static let handshake = TimeSpan.seconds(Int64(10))
  /// A PING goes out so often.
  package static let pingInterval = TimeSpan.seconds(Int64(5))
  /// A connection on which nothing has come for so long, three PINGs included, is dead.
  package static let silence = TimeSpan.seconds(Int64(15))
  /// WARM: the longest hold, and the most octets of PAD that one order brings about in one direction (16 Gbit/s x 64 ms x 2).
  package static let hold = TimeSpan.seconds(Int64(600))
  package static let warmOctets = 256 << 20
}
