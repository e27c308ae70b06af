import LinuxNetwork
import NIOCore
import NIOPosix
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// A client's address could not be taken for a connection to its target.
struct SourceUnavailable: Error {
  var code: CInt
  var description: String { String(cString: strerror(code)) }
}

/// Sockets with addresses that are not this machine's (IP_TRANSPARENT), which takes CAP_NET_ADMIN.
extension TCPSocket {
  // linux/in.h, linux/in6.h and asm-generic/socket.h; the C library's headers lack some.
  private static let ipTransparent: CInt = 19
  private static let ipv6Transparent: CInt = 75
  private static let socketMark: CInt = 36

  /// The option that a listening socket takes before it is bound.
  static func transparent(for address: IPAddress) -> ChannelOptions.Types.SocketOption {
    switch address {
    case .v4: .init(level: .ip, name: .init(rawValue: ipTransparent))
    case .v6: .init(level: .ipv6, name: .init(rawValue: ipv6Transparent))
    }
  }

  /// Binds a socket that is about to dial to a client's address and port. SO_REUSEADDR: the same client may dial several targets from one port, and the kernel tells them apart by both ends.
  static func bind(_ channel: any Channel, to source: Endpoint) throws {
    let address = try SocketAddress(source)
    let code = withDescriptor(channel) { descriptor -> CInt in
      set(descriptor, SOL_SOCKET, SO_REUSEADDR, CInt(1))
      var one: CInt = 1
      let (level, name) =
        switch source.address {
        case .v4: (CInt(IPPROTO_IP), ipTransparent)
        case .v6: (CInt(IPPROTO_IPV6), ipv6Transparent)
        }
      guard setsockopt(descriptor, level, name, &one, socklen_t(MemoryLayout<CInt>.size)) == 0 else { return errno }
      return address.withSockAddr { systemBind(descriptor, $0, socklen_t($1)) == 0 ? 0 : errno }
    }
    if let code, code != 0 { throw SourceUnavailable(code: code) }
  }

  /// SO_MARK: the rules that lead connections into a transparent entrance leave these alone. Without CAP_NET_ADMIN there are no such rules.
  static func markAsOwn(_ channel: any Channel) {
    withDescriptor(channel) { set($0, SOL_SOCKET, socketMark, InterceptionRules.ownMark) }
  }
}

/// Inside `TCPSocket` the name `bind` is ours.
private func systemBind(_ descriptor: CInt, _ address: UnsafePointer<sockaddr>, _ length: socklen_t) -> CInt {
  bind(descriptor, address, length)
}
