import Flows
import Interception
import Logging
import NIOCore
import NIOPosix
import Relay
import Sockets
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Connects to targets, on one event loop: for flows that a peer opens, and for applications whose target no peer covers.
final class TargetDialler {
  /// Names that are being resolved at once; each takes a thread of the pool.
  static let maximumResolving = 256
  /// One read of a LAN leg, as far as they grow: eight frames. A fixed 128 KiB cost 0.40 CPU s a GB here where this costs 0.36, and 128 KiB for each idle socket, which has 2 now.
  static let readOctets = 256 << 10

  private let loop: any EventLoop
  private let limit: TimeAmount
  /// Its connections carry the mark that the rules of a transparent entrance leave alone.
  private let marks: Bool
  private let logger: Logger
  private var resolving = 0
  /// Said once: it is the machine that lacks something, not the flow.
  private var hasComplained = false

  init(loop: any EventLoop, limit: TimeSpan, marks: Bool = false, logger: Logger) {
    self.loop = loop
    self.limit = .nanoseconds(limit.nanoseconds)
    self.marks = marks
    self.logger = logger
  }

  /// The options of every LAN leg, dialled or accepted. A relay reads when it has room; NIO must not read more than once for it.
  private func bootstrap() -> ClientBootstrap {
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(limit)
      .channelOption(.autoRead, value: false)
      .channelOption(.allowRemoteHalfClosure, value: true)
      .channelOption(.maxMessagesPerRead, value: 1)
      .channelOption(.recvAllocator, value: growingReads(upTo: TargetDialler.readOctets))
    return TCPSocket.applicationOptions.reduce(bootstrap) { $0.channelOption($1.option, value: $1.value) }
  }

  /// Calls back on the loop with a connected channel or the reason why there is none.
  ///
  /// - Parameter source: the address and port that the target shall see; where they cannot be had, it sees this machine's own.
  func dial(_ target: FlowTarget, from source: Endpoint? = nil, then: @escaping (Result<any Channel, FlowRefusal>) -> Void) {
    resolve(target.host) { resolved in
      switch resolved {
      case .failure(let why): then(.failure(why))
      case .success(let address): self.connect(to: Endpoint(address: address, port: target.port), from: source, then: then)
      }
    }
  }

  private func connect(to place: Endpoint, from wanted: Endpoint?, then: @escaping (Result<any Channel, FlowRefusal>) -> Void) {
    let source = wanted.flatMap { $0.address.octets.count == place.address.octets.count ? $0 : nil }
    let bootstrap = self.bootstrap().channelInitializer { [marks] channel in
      channel.eventLoop.makeCompletedFuture {
        if marks { TCPSocket.markAsOwn(channel) }
        if let source { try TCPSocket.bind(channel, to: source) }
      }
    }
    do {
      bootstrap.connect(to: try SocketAddress(place)).assumeIsolated().whenComplete { result in
        switch result {
        case .success(let channel): then(.success(channel))
        case .failure(let error):
          guard let source, let reason = TargetDialler.whySourceFails(error) else { return then(.failure(FlowRefusal(dialError: error))) }
          self.complain(source, place, reason)
          self.connect(to: place, from: nil, then: then)
        }
      }
    } catch {
      then(.failure(.unknownHost))
    }
  }

  /// Nil where it is the target that fails. EADDRNOTAVAIL from connect: these two ends have had a connection that is not forgotten yet.
  private static func whySourceFails(_ error: any Error) -> String? {
    switch error {
    case let error as SourceUnavailable: error.description
    case let error as IOError where error.errnoCode == EADDRNOTAVAIL: "its connection with the target is not forgotten yet"
    case let error as NIOConnectionError: error.connectionErrors.first.flatMap { whySourceFails($0.error) }
    default: nil
    }
  }

  private func complain(_ source: Endpoint, _ place: Endpoint, _ reason: String) {
    let text = "\(place) sees this machine's address, not the client's \(source): \(reason)"
    if hasComplained { return logger.debug("\(text)") }
    hasComplained = true
    logger.warning("\(text); --keep-source takes CAP_NET_ADMIN, and `longhaul accelerator rules` on this machine (said once)")
  }

  /// The first address of a name (RFC 6724 decides the order), or the address that the text already is.
  func resolve(_ host: String, then: @escaping (Result<IPAddress, FlowRefusal>) -> Void) {
    if let address = IPAddress(host) { return then(.success(address)) }
    guard resolving < TargetDialler.maximumResolving else { return then(.failure(.failed)) }
    resolving += 1
    let looking = NIOThreadPool.singleton.runIfActive(eventLoop: loop) {
      try SocketAddress.makeAddressResolvingHost(host, port: 0).ipAddress.flatMap { IPAddress($0.prefix { $0 != "%" }) }
    }
    looking.assumeIsolated().whenComplete { [weak self] result in
      self?.resolving -= 1
      switch result {
      case .success(let address?): then(.success(address))
      case .success(nil), .failure: then(.failure(.unknownHost))
      }
    }
  }
}
