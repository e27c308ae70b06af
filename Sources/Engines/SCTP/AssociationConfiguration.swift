import NIOCore
import Vocabulary

/// What an association is told at its start, and its named limits.
package struct AssociationConfiguration: Sendable {
  package var port: UInt16 = 7_600
  /// The peer's SCTP port, if it is another one than ours.
  package var peerPort: UInt16?
  package var localAddresses: [IPAddress] = []
  package var outboundStreams: UInt16 = 65_535
  package var inboundStreams: UInt16 = 65_535
  /// How streams share what may be sent.
  package var scheduler = StreamScheduler.firstCome
  /// Octets that we offer to hold for the peer. 16 MiB: 300 ms x 400 Mbit/s / 8 = 15 MB.
  package var receiveWindow = ByteCount.mebibytes(16)
  /// Octets of user data that wait for the peer's acknowledgement, sent or not.
  package var sendBuffer = ByteCount.mebibytes(16)
  /// 32 KiB: 2.6 ms at 100 Mbit/s. A packet of 65,535 octets, the most that RFC 4571 frames, costs little less and waits longer.
  package var maximumPacketSize = 32 << 10
  /// On a reliable carrier that is new, packets are smaller: its TCP sends ten segments (RFC 6928) and then waits a round trip, and of a packet that lies across such a wait
  /// nothing can be used before its end has come. 1,400: one segment holds it.
  package var youngPacketSize = 1_400
  /// So many octets of DATA; 64 KiB: TCP's slow start is through with 10 + 20 segments of 1,460, and lets packets of 32 KiB through whole from then on.
  package var youngCarrierOctets = 64 << 10
  /// The endpoint pair shared key (RFC 4895).
  package var endpointKey: [UInt8]
  /// Its number. Packets under any other are refused, so also those under the empty key 0 that a peer may be content with (RFC 4895 section 9).
  package var endpointKeyIdentifier: UInt16 = 0
  /// Valid.Cookie.Life (RFC 9260 section 16).
  package var cookieLifetime = TimeSpan.seconds(60 as Int64)
  /// T1: over TCP nothing is lost, so this only bounds how long a peer that does not answer is waited for.
  package var handshakeTimeout = TimeSpan.seconds(3 as Int64)
  /// Max.Init.Retransmits.
  package var handshakeRetries = 4
  /// SACK.Delay (RFC 9260 section 6.2: at most 200 ms).
  package var sackDelay = TimeSpan.milliseconds(100 as Int64)
  package var heartbeatInterval = TimeSpan.seconds(1 as Int64)
  /// Nothing heard on the active carrier for so long, with a HEARTBEAT outstanding: `carrierSilent`.
  package var silenceLimit = TimeSpan.seconds(3 as Int64)
  /// Without any carrier for so long the association fails.
  package var lifetimeWithoutCarrier = TimeSpan.seconds(600 as Int64)
  /// T2 and the limit of its retries; T5 is their product.
  package var shutdownTimeout = TimeSpan.seconds(3 as Int64)
  package var shutdownRetries = 5
  /// Addresses that the peer may have at once.
  package var maximumPeerAddresses = 16
  /// ASCONF requests that wait for the one that is out.
  package var maximumQueuedRequests = 32
  /// Carriers known at once: the active one, those being tried, those being closed.
  package var maximumCarriers = 16

  /// Datagram carriers only: timers, retransmissions, bursts.
  package var paths = PathLimits()
  package var features = Features()
  /// The secret of cookies that an association makes itself, when an INIT meets it (RFC 9260 section 5.2). Empty: such an INIT is ignored.
  package var cookieSecret: [UInt8] = []

  package init(endpointKey: [UInt8]) { self.endpointKey = endpointKey }

  /// What the handshake offers.
  package struct Features: Sendable, Hashable {
    /// AUTH (RFC 4895).
    package var authentication = true
    /// ASCONF (RFC 5061), which needs AUTH.
    package var reconfiguration = true
    /// A peer that lacks either is refused, as every session of Longhaul does; otherwise the association does without.
    package var isRequired = true

    /// RE-CONFIG (RFC 6525): streams are reset and added.
    package var streamReset = true
    /// FORWARD-TSN (RFC 3758).
    package var partialReliability = true
    /// I-DATA (RFC 8260): messages of several streams interleave.
    package var interleaving = false
    /// On datagram carriers the size of packets is found by probes (RFC 8899), up to the carrier's `mtu`; otherwise it is that `mtu`.
    package var pathMTUDiscovery = false
    /// SHA-1 beside SHA-256: RFC 4895 section 6.1 wants it, and some stacks have nothing else. Sessions do without.
    package var offersSHA1 = false

    package init() {}

    /// Supported Extensions (RFC 5061 section 4.2.7).
    var extensions: [ChunkType] {
      var types: [ChunkType] = []
      if authentication { types.append(.authentication) }
      if authentication, reconfiguration { types += [.asconf, .asconfAck] }
      if streamReset { types.append(.reconfiguration) }
      if interleaving { types.append(.interleavedData) }
      if partialReliability { types.append(.forwardTSN) }
      if partialReliability, interleaving { types.append(.interleavedForwardTSN) }
      return types
    }

    var algorithms: [HMACAlgorithm] { offersSHA1 ? [.sha256, .sha1] : [.sha256] }
  }
}

/// Why an association ended badly.
package enum AssociationError: Error, Hashable, Sendable, CustomStringConvertible {
  /// The peer does not answer INIT or COOKIE ECHO.
  case handshakeTimedOut
  /// The carrier went before the handshake was done.
  case carrierLostInHandshake
  /// The peer's INIT ACK offers no AUTH or no ASCONF (RFC 5061 section 6).
  case peerLacksExtension(String)
  case peerAborted(String)
  case protocolViolation(String)
  case noCarrier
  /// Association.Max.Retrans has been exceeded (RFC 9260 section 8.1).
  case peerUnreachable
  case shutdownTimedOut
  case aborted(String)

  package var description: String {
    switch self {
    case .handshakeTimedOut: "the peer does not answer the handshake"
    case .carrierLostInHandshake: "the connection was lost during the handshake"
    case .peerLacksExtension(let name): "the peer does not support \(name)"
    case .peerAborted(let reason): reason
    case .protocolViolation(let what): "the peer broke the protocol: \(what)"
    case .noCarrier: "no connection to the peer for too long"
    case .peerUnreachable: "the peer does not answer on any path"
    case .shutdownTimedOut: "the peer does not answer SHUTDOWN"
    case .aborted(let reason): reason
    }
  }
}

/// What an association wants done, or tells.
package enum Effect: Sendable {
  /// One whole packet, its checksum set.
  case transmit(ByteBuffer, on: CarrierID)
  case established
  case deliver(stream: StreamID, protocolIdentifier: UInt32, payload: ByteBuffer)
  /// A message of limited reliability was given up; `wasSent`: parts of it may have arrived, and none was handed up.
  case abandoned(stream: StreamID, protocolIdentifier: UInt32, wasSent: Bool)
  /// There is send space again after `send` had refused.
  case sendSpace
  case peerAnnounced(IPAddress)
  case peerWithdrew(IPAddress)
  case announced(IPAddress)
  case withdrawn(IPAddress)
  case announcementRefused(IPAddress, reason: String)
  /// Both directions use this carrier now; the epoch has grown by one.
  case moved(to: CarrierID)
  case closeCarrier(CarrierID, reason: String)
  case carrierSilent(CarrierID)
  case roundTrip(CarrierID, TimeSpan)
  /// A datagram path works now, or has stopped working.
  case pathChanged(CarrierID, PathStatus)
  /// These streams have begun anew in this direction; an empty list of incoming ones means all.
  case streamsReset(StreamDirection, [StreamID])
  /// There are more streams in this direction.
  case streamsAdded(StreamDirection, total: UInt16)
  /// The peer has not reset our direction of these streams: they go on as they were.
  case streamsNotReset([StreamID], reason: String)
  /// The peer adds no streams, or resets none of its own.
  case streamRequestRefused(String)
  /// Packets of this datagram carrier may have so many octets now.
  case packetSizeChanged(CarrierID, octets: Int)
  /// The peer began anew: what was under way in either direction is lost (RFC 9260 section 5.2.4, case A).
  case restarted
  /// The peer says that something was wrong with what it got (ERROR).
  case peerReported(String)
  /// The association has been shut down in good order.
  case closed
  case failed(AssociationError)
}

package struct AssociationStatistics: Sendable, Hashable {
  package var packetsSent = 0
  package var packetsReceived = 0
  package var messagesSent = 0
  package var messagesDelivered = 0
  package var octetsSent = 0
  package var octetsDelivered = 0
  package var chunksRetransmitted = 0
  package var octetsRetransmitted = 0
  package var duplicatesReceived = 0
  package var fastRetransmits = 0
  /// Expiries of T3-rtx.
  package var timeouts = 0
  package var sacksSent = 0
  /// Packets on fenced carriers, with wrong tags, wrong checksums, or without the authentication they need.
  package var packetsDropped = 0
  package var moves = 0
  package var messagesAbandoned = 0

  package init() {}
}
