import NIOCore
import NIOPosix

/// Socket options of carriers that NIO has no names for (linux/tcp.h).
package enum CarrierOptions {
  /// TCP_WINDOW_CLAMP: the largest receive window that TCP advertises, in octets. Automatic tuning of the receive buffer raises it again, so a carrier
  /// sets SO_RCVBUF as well, which ends the tuning; the kernel takes twice that for its own overhead, and the window is between one and two of it.
  package static let windowClamp = ChannelOptions.Types.SocketOption(level: .tcp, name: .init(rawValue: 10))
  /// TCP_NOTSENT_LOWAT: the socket counts as writable only while fewer octets than this wait unsent.
  package static let notSentLowWater = ChannelOptions.Types.SocketOption(level: .tcp, name: .init(rawValue: 25))

  /// For an accepted carrier; a dialled one sets them before it connects.
  package static func apply(to channel: any Channel, window: Int?) throws {
    guard let options = channel as? any SocketOptionProvider else { return }
    options.unsafeSetSocketOption(level: .tcp, name: .init(rawValue: 25), value: Int32(Carrier.notSentLowWater)).whenComplete { _ in }
    guard let window else { return }
    options.unsafeSetSocketOption(level: .socket, name: .so_rcvbuf, value: Int32(window)).whenComplete { _ in }
    options.unsafeSetSocketOption(level: .tcp, name: .init(rawValue: 10), value: Int32(window)).whenComplete { _ in }
  }
}
