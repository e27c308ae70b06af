import NIOCore
import NIOPosix

/// Socket options of carriers that NIO has no names for (linux/tcp.h).
package enum CarrierOptions {
  /// TCP_WINDOW_CLAMP: the largest receive window that TCP advertises, in octets.
  package static let windowClamp = ChannelOptions.Types.SocketOption(level: .tcp, name: .init(rawValue: 10))
  /// TCP_NOTSENT_LOWAT: the socket counts as writable only while fewer octets than this wait unsent.
  package static let notSentLowWater = ChannelOptions.Types.SocketOption(level: .tcp, name: .init(rawValue: 25))

  /// For an accepted carrier; a dialled one sets them before it connects.
  package static func apply(to channel: any Channel, window: Int?) throws {
    guard let options = channel as? any SocketOptionProvider else { return }
    options.unsafeSetSocketOption(level: .tcp, name: .init(rawValue: 25), value: Int32(Carrier.notSentLowWater)).whenComplete { _ in }
    if let window { options.unsafeSetSocketOption(level: .tcp, name: .init(rawValue: 10), value: Int32(window)).whenComplete { _ in } }
  }
}
