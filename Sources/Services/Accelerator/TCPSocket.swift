import NIOCore
import NIOPosix
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// What Linux says of a TCP connection (TCP_INFO).
struct TCPState: Sendable {
  var congestionWindowSegments: Int
  var segmentOctets: Int
  /// Octets acknowledged since the connection began.
  var acknowledged: UInt64
  /// Octets handed to the socket that were not sent yet.
  var unsent: Int
  /// Octets that the peer's window takes, sent or not; 0 where the kernel does not say (before Linux 6.2).
  var peerWindow: Int
  /// Segments under way.
  var unacknowledged: Int
  /// Segments since the connection began, modulo 2^32.
  var sentSegments: UInt32
  var retransmittedSegments: UInt32

  /// What BBR would take for its window; 0 with another congestion control.
  var modelledWindow: Int

  /// The shortest round trip that the connection has seen lately; nil before there was one.
  var leastRoundTrip: TimeSpan?

  /// More than one segment in a thousand was lost; one or two may be a route that changed.
  var isLosing: Bool { retransmittedSegments >= CongestionPolicy.losses && retransmittedSegments > sentSegments / 1_000 }

  /// BBR closes its window to four segments now and then, to measure the round trip, and an idle connection stays so until it sends again; then the
  /// window is back at once, since the model is what counts.
  var congestionWindow: Int { max(congestionWindowSegments * segmentOctets, modelledWindow) }
}

/// The socket options of WAN legs, most of which NIO has no name for. All calls are made on the channel's event loop.
enum TCPSocket {
  /// TCP_NOTSENT_LOWAT: 256 KiB, 21 ms at 96 Mbit/s: what a new flow's first octets wait behind inside the kernel at most, and at 10 Gbit/s still
  /// 0.2 ms of sending between two wake-ups. Only unsent octets count, so the window may be as large as it likes.
  static let notSentLowWater: CInt = 256 << 10
  /// The channel's own queue before the kernel's: the same again.
  static let waterMarks = ChannelOptions.Types.WriteBufferWaterMark(low: 64 << 10, high: 128 << 10)

  /// One read of a tunnel connection: eight frames; a read of 256 KiB costs a third less CPU a gigabyte than one of 64 KiB.
  static let readOctets = 256 << 10

  /// A host that has vanished says nothing, and its flow would be held for ever. It is asked after two quiet minutes, then every 15 s, and given up
  /// after 8 questions: four minutes in all, far longer than a guest stands still while it is migrated.
  static let keepAlive: [(option: ChannelOptions.Types.SocketOption, value: Int)] = [
    (.init(level: .socket, name: .so_keepalive), 1),
    (.init(level: .tcp, name: .init(rawValue: TCP_KEEPIDLE)), 120),
    (.init(level: .tcp, name: .init(rawValue: TCP_KEEPINTVL)), 15),
    (.init(level: .tcp, name: .init(rawValue: TCP_KEEPCNT)), 8),
  ]

  /// Of every connection with an application or a target, accepted or dialled. Urgent octets stay in line (SO_OOBINLINE): otherwise the kernel takes the last octet of what was
  /// sent with MSG_OOB out of the stream, and the far side would get one octet less than was sent. That it was urgent is lost; RFC 6093 section 6 advises against its use for good.
  static let applicationOptions: [(option: ChannelOptions.Types.SocketOption, value: Int)] =
    keepAlive + [
      (.init(level: .socket, name: .init(rawValue: SO_OOBINLINE)), 1),
      (.init(level: .tcp, name: .tcp_nodelay), 1),
    ]

  // linux/tcp.h and asm-generic/socket.h; the C library's headers lack some.
  private static let tcpCongestion: CInt = 13
  private static let tcpNotSentLowWater: CInt = 25
  private static let tcpInformation: CInt = 11
  private static let tcpCongestionInformation: CInt = 26
  private static let socketMaximumPacingRate: CInt = 47

  /// Prepares a tunnel connection. SO_SNDBUF and SO_RCVBUF stay as they are: setting them would switch the kernel's autotuning off and cap them;
  /// docs/operations/accelerator.md says how to raise its limits instead.
  static func tune(_ channel: any Channel, _ control: CongestionPolicy.Control) {
    withDescriptor(channel) { descriptor in
      set(descriptor, CInt(IPPROTO_TCP), TCP_NODELAY, CInt(1))
      set(descriptor, CInt(IPPROTO_TCP), tcpNotSentLowWater, notSentLowWater)
    }
    setCongestionControl(channel, control)
  }

  /// TCP_CONGESTION, also on a connection that is under way. A kernel without it leaves what there was.
  static func setCongestionControl(_ channel: any Channel, _ control: CongestionPolicy.Control) {
    withDescriptor(channel) { descriptor in
      var name: [CChar] = Array(control.rawValue.utf8CString)
      _ = setsockopt(descriptor, CInt(IPPROTO_TCP), tcpCongestion, &name, socklen_t(control.rawValue.utf8.count))
    }
  }

  /// Whether windows of idle connections stay open in this network namespace; false if it cannot be told.
  static func keepsIdleWindows() -> Bool {
    guard let file = fopen("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "r") else { return false }
    defer { fclose(file) }
    return fgetc(file) == CInt(UInt8(ascii: "0"))
  }

  /// SO_MAX_PACING_RATE; nil takes the limit away.
  static func setPacing(_ channel: any Channel, octetsPerSecond: UInt64?) {
    withDescriptor(channel) { set($0, SOL_SOCKET, socketMaximumPacingRate, octetsPerSecond ?? .max) }
  }

  /// Offsets in `struct tcp_info` (linux/tcp.h), which only ever grows at its end; glibc's copy stops before the octet counters.
  static func state(_ channel: any Channel) -> TCPState? {
    withDescriptor(channel) { descriptor -> TCPState? in
      var octets = [UInt8](repeating: 0, count: 256)
      var length = socklen_t(octets.count)
      guard getsockopt(descriptor, CInt(IPPROTO_TCP), tcpInformation, &octets, &length) == 0, length >= 148 else { return nil }
      return octets.withUnsafeBytes { info in
        TCPState(
          congestionWindowSegments: Int(info.loadUnaligned(fromByteOffset: 80, as: UInt32.self)),
          segmentOctets: Int(info.loadUnaligned(fromByteOffset: 16, as: UInt32.self)),
          acknowledged: info.loadUnaligned(fromByteOffset: 120, as: UInt64.self),
          unsent: Int(info.loadUnaligned(fromByteOffset: 144, as: UInt32.self)),
          peerWindow: length >= 232 ? Int(info.loadUnaligned(fromByteOffset: 228, as: UInt32.self)) : 0,
          unacknowledged: Int(info.loadUnaligned(fromByteOffset: 24, as: UInt32.self)),
          sentSegments: info.loadUnaligned(fromByteOffset: 136, as: UInt32.self),
          retransmittedSegments: info.loadUnaligned(fromByteOffset: 100, as: UInt32.self),
          modelledWindow: modelledWindow(descriptor),
          leastRoundTrip: length >= 152 ? roundTrip(info.loadUnaligned(fromByteOffset: 148, as: UInt32.self)) : nil)
      }
    } ?? nil
  }

  /// tcpi_min_rtt is in microseconds, and all ones before the first measurement.
  private static func roundTrip(_ microseconds: UInt32) -> TimeSpan? {
    microseconds == .max ? nil : .nanoseconds(Int64(microseconds) * 1_000)
  }

  /// TCP_CC_INFO: `struct tcp_bbr_info` (linux/inet_diag.h) has 20 octets; no other congestion control's answer has as many.
  private static func modelledWindow(_ descriptor: CInt) -> Int {
    var words: [UInt32] = [0, 0, 0, 0, 0]
    var length = socklen_t(20)
    guard getsockopt(descriptor, CInt(IPPROTO_TCP), tcpCongestionInformation, &words, &length) == 0, length == 20 else { return 0 }
    let octetsPerSecond = Double(UInt64(words[1]) << 32 | UInt64(words[0]))
    // BBR's window is twice bandwidth x delay (bbr_cwnd_gain). Before it has measured, the delay reads as all ones.
    let window = words[2] == .max ? 0 : 2 * octetsPerSecond * Double(words[2]) / 1e6
    return Int(min(window, 1e12))
  }

  static func set<T: BitwiseCopyable>(_ descriptor: CInt, _ level: CInt, _ name: CInt, _ value: T) {
    var value = value
    // An option that this kernel does not know makes the connection slower, not wrong.
    _ = setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<T>.size))
  }

  @discardableResult
  static func withDescriptor<R>(_ channel: any Channel, _ body: (CInt) -> R) -> R? {
    // Throws once the channel has closed: there is nothing left to set then.
    try? channel.pipeline.syncOperations.withUnsafeTransportIfAvailable(of: NIOBSDSocket.Handle.self) { body($0) }
  }
}
