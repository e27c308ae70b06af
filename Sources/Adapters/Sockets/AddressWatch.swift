import NIOCore
import NIOPosix
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Tells when the addresses of this machine change, the moment the kernel says so (rtnetlink). On one event loop.
package final class AddressWatch {
  /// What the kernel says in one breath (a link that goes down takes its addresses and routes with it) is looked at once.
  static let breath = TimeAmount.milliseconds(10)
  /// After a lost notification socket: it is lost when notices come faster than they are read, which ends by itself.
  static let reopenPause = TimeAmount.seconds(1)
  // linux/rtnetlink.h: RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR.
  private static let groups: UInt32 = 0x1 | 0x10 | 0x100

  private let loop: any EventLoop
  private let onChange: (Set<IPAddress>) -> Void
  private var channel: (any Channel)?
  private var known: Set<IPAddress>
  private var look: Scheduled<Void>?
  private var isStopped = false

  /// - Parameter onChange: gets the addresses that can be used now, whenever they are others than before.
  package init(loop: any EventLoop, onChange: @escaping (Set<IPAddress>) -> Void) {
    self.loop = loop
    self.onChange = onChange
    known = AddressWatch.present()
  }

  package func start() {
    loop.preconditionInEventLoop()
    guard !isStopped else { return }
    guard let descriptor = AddressWatch.open() else { return reopen() }
    let bound = NIOLoopBound(self, eventLoop: loop)
    let opening = NIOPipeBootstrap(group: loop)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Ear { bound.value.heard() }) }
      }
      .takingOwnershipOfDescriptor(input: descriptor)
    opening.assumeIsolated().whenComplete { result in
      switch result {
      case .success(let channel):
        guard !self.isStopped else { return channel.close(promise: nil) }
        self.channel = channel
        channel.closeFuture.assumeIsolated().whenComplete { _ in self.reopen() }
        self.heard()  // what changed before
      case .failure:
        _ = close(descriptor)
        self.reopen()
      }
    }
  }

  package func stop() {
    isStopped = true
    look?.cancel()
    channel?.close(promise: nil)
  }

  private func reopen() {
    channel = nil
    guard !isStopped else { return }
    loop.assumeIsolated().scheduleTask(in: AddressWatch.reopenPause) { [weak self] in self?.start() }
  }

  private func heard() {
    guard look == nil, !isStopped else { return }
    look = loop.assumeIsolated().scheduleTask(in: AddressWatch.breath) { [weak self] in
      guard let self else { return }
      self.look = nil
      let now = AddressWatch.present()
      guard now != self.known else { return }
      self.known = now
      self.onChange(now)
    }
  }

  private static func open() -> CInt? {
    #if canImport(Glibc)
      let raw = CInt(SOCK_RAW.rawValue)
    #else
      let raw = SOCK_RAW
    #endif
    let descriptor = socket(AF_NETLINK, raw | CInt(O_CLOEXEC), 0)  // NETLINK_ROUTE; SOCK_CLOEXEC is O_CLOEXEC
    guard descriptor >= 0 else { return nil }
    // struct sockaddr_nl: family and padding (little-endian, as all machines that we build for), port (the kernel's choice), groups.
    var address: [UInt32] = [UInt32(AF_NETLINK), 0, groups]
    let octets = socklen_t(address.count * 4)
    let bound = address.withUnsafeMutableBytes { raw in
      raw.withMemoryRebound(to: sockaddr.self) { $0.baseAddress.map { bind(descriptor, $0, octets) } ?? -1 }
    }
    guard bound == 0 else {
      _ = close(descriptor)
      return nil
    }
    return descriptor
  }

  /// The addresses of links that are up and connected, without loopback and link-local ones, which reach nobody else.
  package static func present() -> Set<IPAddress> {
    var list: UnsafeMutablePointer<ifaddrs>?
    guard getifaddrs(&list) == 0 else { return [] }
    defer { freeifaddrs(list) }
    var found: Set<IPAddress> = []
    var next = list
    let wanted = UInt32(IFF_UP) | UInt32(IFF_RUNNING)
    while let entry = next?.pointee {
      next = entry.ifa_next
      guard entry.ifa_flags & wanted == wanted, let raw = entry.ifa_addr, let address = IPAddress(raw), !address.isLoopback,
        !address.isLinkLocal
      else { continue }
      found.insert(address)
    }
    return found
  }

  /// Hears that something has changed; what it is, `present` says.
  private final class Ear: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    private let heard: () -> Void
    init(_ heard: @escaping () -> Void) { self.heard = heard }
    func channelRead(context: ChannelHandlerContext, data: NIOAny) { heard() }
    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }
  }
}

extension IPAddress {
  fileprivate init?(_ raw: UnsafeMutablePointer<sockaddr>) {
    switch CInt(raw.pointee.sa_family) {
    case AF_INET:
      let value = raw.withMemoryRebound(to: sockaddr_in.self, capacity: 1) { $0.pointee.sin_addr.s_addr }
      self = .v4(UInt32(bigEndian: value))
    case AF_INET6:
      let octets = raw.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { withUnsafeBytes(of: $0.pointee.sin6_addr) { Array($0) } }
      let words = [octets[0..<8], octets[8..<16]].map { $0.reduce(UInt64(0)) { $0 << 8 | UInt64($1) } }
      self = .v6(high: words[0], low: words[1])
    default: return nil
    }
  }

  /// RFC 3927, RFC 4291 section 2.5.6.
  fileprivate var isLinkLocal: Bool {
    switch self {
    case .v4(let value): value >> 16 == 0xa9fe
    case .v6(let high, _): high >> 54 == 0x3fa  // fe80::/10
    }
  }
}
