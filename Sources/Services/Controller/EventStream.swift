import NIOCore
import NIOPosix

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// One reader of server-sent events. Events wait here until its connection takes them; a reader that is too slow is disconnected, since an order
/// that comes late is worse than none: the node registers again and hears where things stand.
final class EventStream: Sendable {
  /// Events that wait. A migration makes about ten orders for a node, keep-alives come every 2 s; the socket's own buffer comes on top.
  static let maximumWaiting = 256
  /// How long octets may stay unacknowledged before the kernel gives the connection up: five keep-alives. A machine that moves leaves such
  /// connections behind.
  static let unacknowledgedMilliseconds = 10_000

  let events: AsyncStream<ByteBuffer>
  private let sink: AsyncStream<ByteBuffer>.Continuation
  private let channel: any Channel

  init(channel: any Channel) {
    self.channel = channel
    (events, sink) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(EventStream.maximumWaiting))
    // Orders are small and urgent.
    _ = channel.setOption(.tcpOption(.tcp_nodelay), value: 1)
    _ = channel.setOption(
      .tcpOption(.init(rawValue: TCP_USER_TIMEOUT)), value: SocketOptionValue(EventStream.unacknowledgedMilliseconds))
  }

  /// False if the reader was too slow; it has been disconnected then.
  @discardableResult
  func send(_ event: ByteBuffer) -> Bool {
    switch sink.yield(event) {
    case .enqueued: return true
    case .terminated: return false
    case .dropped:
      close()
      return false
    @unknown default: return false
    }
  }

  /// Ends the response after what waits has been written.
  func finish() { sink.finish() }

  /// Ends the connection with whatever waits.
  func close() {
    sink.finish()
    channel.close(promise: nil)
  }

  // MARK: The format (WHATWG HTML, 9.2.6)

  static let keepAlive = ByteBuffer(string: ": keep-alive\n\n")

  /// JSON has no line's end of its own, so one `data` line holds it.
  static func event(_ json: some Sequence<UInt8>) -> ByteBuffer {
    var buffer = ByteBuffer(string: "data: ")
    buffer.writeBytes(json)
    buffer.writeString("\n\n")
    return buffer
  }
}
