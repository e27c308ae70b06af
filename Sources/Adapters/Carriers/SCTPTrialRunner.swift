import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

private let unistdWrite: @Sendable (Int32, UnsafeRawPointer?, Int) -> Int = write

/// Runs a trial from its sockets to its result. Results go to standard output, events to standard error.
package struct SCTPTrialRunner: Sendable {
  private let settings: SCTPTrialSettings
  private let configuration: AssociationConfiguration
  private let isVerbose: Bool
  private let loop = MultiThreadedEventLoopGroup.singleton.next()

  package init(_ settings: SCTPTrialSettings, _ configuration: AssociationConfiguration, isVerbose: Bool) {
    self.settings = settings
    self.configuration = configuration
    self.isVerbose = isVerbose
  }

  package func listenUDP(_ address: Endpoint, mtu: Int) async throws {
    try await run("listening on udp", address) { loop in
      let endpoint = SCTPEndpoint(configuration: configuration, mtu: mtu, isListening: true, loop: loop)
      return (endpoint, { _ in endpoint.bind(address).map { "\($0)" } })
    }
  }

  package func connectUDP(from local: IPAddress, to remote: Endpoint, mtu: Int) async throws {
    try await run(nil, remote) { loop in
      let endpoint = SCTPEndpoint(configuration: configuration, mtu: mtu, isListening: false, loop: loop)
      return (
        endpoint,
        { trial in
          let bound = NIOLoopBound((endpoint, trial), eventLoop: loop)
          return endpoint.bind(Endpoint(address: local, port: 0)).map { here in
            let (endpoint, trial) = bound.value
            trial.begin(endpoint.connect(from: here.address, to: remote))
            return "\(here)"
          }
        }
      )
    }
  }

  package func listenTCP(_ address: Endpoint) async throws {
    try await run("listening on tcp", address) { loop in
      let endpoint = StreamEndpoint(configuration: configuration, loop: loop)
      return (endpoint, { _ in endpoint.listen(address).map { "\($0)" } })
    }
  }

  package func connectTCP(to remote: Endpoint) async throws {
    try await run(nil, remote) { loop in
      let endpoint = StreamEndpoint(configuration: configuration, loop: loop)
      return (
        endpoint,
        { trial in
          let bound = NIOLoopBound(trial, eventLoop: loop)
          return endpoint.connect(to: remote).map { id in
            bound.value.begin(id)
            return "\(id)"
          }
        }
      )
    }
  }

  /// At once, also into a pipe: another program may wait for the line.
  private static func write(_ line: String, to descriptor: Int32) {
    let bytes = Array((line + "\n").utf8)
    var done = 0
    while done < bytes.count {
      let count = bytes[done...].withUnsafeBytes { unistdWrite(descriptor, $0.baseAddress, $0.count) }
      if count <= 0 { return }
      done += count
    }
  }

  private typealias Start = (SCTPTrial) -> EventLoopFuture<String>

  /// Makes transport and trial on the loop, starts them, and waits for the result, or for the task to be cancelled.
  private func run(
    _ greeting: String?, _ address: Endpoint, _ make: @escaping @Sendable (any EventLoop) -> (any MessageTransport, Start)
  ) async throws {
    let (settings, isVerbose, loop) = (settings, isVerbose, loop)
    let (bound, ready) = try await loop.submit {
      let (transport, start) = make(loop)
      let trial = SCTPTrial(
        settings, transport, loop: loop, say: { Self.write($0, to: STDOUT_FILENO) },
        tell: { if isVerbose { Self.write($0, to: STDERR_FILENO) } })
      return (NIOLoopBound((transport, trial), eventLoop: loop), start(trial))
    }.get()
    do {
      let place = try await ready.get()
      if let greeting { Self.write("\(greeting) \(place)", to: STDOUT_FILENO) }
    } catch {
      throw SCTPTrialError(description: "\(address): \(describe(error))")
    }
    defer { loop.execute { bound.value.0.close() } }
    let result = try await loop.submit { bound.value.1.result }.get()
    try await withTaskCancellationHandler {
      try await result.get()
    } onCancel: {
      loop.execute { bound.value.1.stop() }
    }
  }
}
