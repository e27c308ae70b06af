import Certificates
import NIOCore
import NIOPosix
import Sockets
import Vocabulary

/// Opens connections to the controller, from the node's own addresses in turn: a machine that moves has several, of which one works at a time.
final class ControlDialler {
  struct Failure: Error, CustomStringConvertible {
    var description: String
  }

  private let loop: any EventLoop
  private let controller: Endpoint
  private let credentials: ControlCredentials
  private let connectLimit: TimeAmount
  /// The one to try first leads; empty leaves the choice to the kernel.
  private(set) var sources: [IPAddress]

  init(loop: any EventLoop, controller: Endpoint, credentials: ControlCredentials, sources: [IPAddress], connectLimit: TimeAmount) {
    self.loop = loop
    self.controller = controller
    self.credentials = credentials
    self.connectLimit = connectLimit
    // From an address of the other family no connection can be made.
    self.sources = sources.filter { $0.isVersion4 == controller.address.isVersion4 }
  }

  /// This address leads from now on.
  func prefer(_ source: IPAddress) {
    guard source.isVersion4 == controller.address.isVersion4 else { return }
    sources.removeAll { $0 == source }
    sources.insert(source, at: 0)
  }

  /// The address that led has fallen silent: it is tried last.
  func passBy() { if sources.count > 1 { sources.append(sources.removeFirst()) } }

  /// Calls back once, on the loop; with the address that the connection was made from, if one was asked for.
  func dial(then: @escaping (Result<(ControlConnection, IPAddress?), Failure>) -> Void) {
    dial(from: sources.isEmpty ? [nil] : sources.map { $0 }, failures: [], then: then)
  }

  private func dial(
    from left: [IPAddress?], failures: [String], then: @escaping (Result<(ControlConnection, IPAddress?), Failure>) -> Void
  ) {
    guard let source = left.first else { return then(.failure(Failure(description: failures.joined(separator: "; ")))) }
    connect(from: source).assumeIsolated().whenComplete { result in
      switch result {
      case .success(let bound): then(.success((bound.value, source)))
      case .failure(let error):
        let text = source.map { "from \($0): \(describe(error))" } ?? describe(error)
        self.dial(from: Array(left.dropFirst()), failures: failures + [text], then: then)
      }
    }
  }

  private func connect(from source: IPAddress?) -> EventLoopFuture<NIOLoopBound<ControlConnection>> {
    let connection = NIOLoopBound(ControlConnection(controller: "\(controller)", authorization: credentials.authorization), eventLoop: loop)
    let credentials = self.credentials
    var bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(connectLimit)
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try credentials.secure(channel.pipeline.syncOperations)
          try channel.pipeline.syncOperations.addHTTPClientHandlers()
          try channel.pipeline.syncOperations.addHandler(connection.value)
        }
      }
    do {
      if let source { bootstrap = bootstrap.bind(to: try SocketAddress(ipAddress: "\(source)", port: 0)) }
      let address = try SocketAddress(controller)
      return bootstrap.connect(to: address).map { _ in connection }
    } catch {
      return loop.makeFailedFuture(error)
    }
  }
}

extension IPAddress {
  fileprivate var isVersion4: Bool {
    if case .v4 = self { return true }
    return false
  }
}
