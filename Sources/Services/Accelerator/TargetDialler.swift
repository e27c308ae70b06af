import Flows
import Interception
import Logging
import NIOCore
import NIOPosix
import Relay
import Sockets
import Vocabulary

/// Connects to targets, on one event loop: for flows that a peer opens, and for applications whose target no peer covers.
final class TargetDialler {
  /// Names that are being resolved at once; each takes a thread of the pool.
  static let maximumResolving = 256
  /// One read of a LAN leg: four frames.
  static let readOctets = 128 << 10

  private let loop: any EventLoop
  private let limit: TimeAmount
  private let logger: Logger
  private var resolving = 0

  init(loop: any EventLoop, limit: TimeSpan, logger: Logger) {
    self.loop = loop
    self.limit = .nanoseconds(limit.nanoseconds)
    self.logger = logger
  }

  /// The options of every LAN leg, dialled or accepted. A relay reads when it has room; NIO must not read more than once for it.
  private func bootstrap() -> ClientBootstrap {
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(limit)
      .channelOption(.autoRead, value: false)
      .channelOption(.allowRemoteHalfClosure, value: true)
      .channelOption(.maxMessagesPerRead, value: 1)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: TargetDialler.readOctets))
    return TCPSocket.applicationOptions.reduce(bootstrap) { $0.channelOption($1.option, value: $1.value) }
  }

  /// Calls back on the loop with a connected channel or the reason why there is none.
  func dial(_ target: FlowTarget, then: @escaping (Result<any Channel, FlowRefusal>) -> Void) {
    resolve(target.host) { resolved in
      switch resolved {
      case .failure(let why): then(.failure(why))
      case .success(let address):
        do {
          let socketAddress = try SocketAddress(Endpoint(address: address, port: target.port))
          self.bootstrap().connect(to: socketAddress).assumeIsolated().whenComplete { result in
            then(result.mapError { FlowRefusal(dialError: $0) })
          }
        } catch {
          then(.failure(.unknownHost))
        }
      }
    }
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
