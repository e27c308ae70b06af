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

/// Runs a trial from its sockets to its result. Results go to standard output, events to standard error; as JSON all goes to standard output. Commands come on standard input.
package struct SCTPTrialRunner: Sendable {
  package enum Output: Sendable {
    case results
    case events
    case json
  }

  private let settings: SCTPTrialSettings
  private let configuration: AssociationConfiguration
  private let output: Output
  private let began = SessionDriver.now()
  private let loop = MultiThreadedEventLoopGroup.singleton.next()

  package init(_ settings: SCTPTrialSettings, _ configuration: AssociationConfiguration, output: Output) {
    self.settings = settings
    self.configuration = configuration
    self.output = output
  }

  package func listenUDP(_ addresses: [Endpoint], mtu: Int) async throws {
    var configuration = configuration
    if addresses.count > 1 { configuration.localAddresses = addresses.map(\.address) }
    try await run("listening on udp", addresses) { [configuration] loop in
      let endpoint = SCTPEndpoint(configuration: configuration, mtu: mtu, isListening: true, loop: loop)
      return (endpoint, { _ in Self.each(addresses, loop) { endpoint.bind($0).map { "\($0)" } } })
    }
  }

  /// - Parameters:
  ///   - locals: our addresses; the association begins at the first one, and tells of all.
  ///   - remotes: the peer's; the first one is asked.
  package func connectUDP(from locals: [Endpoint], to remotes: [Endpoint], mtu: Int) async throws {
    guard let first = locals.first, let remote = remotes.first else {
      throw SCTPTrialError(description: "an address of each side is needed")
    }
    var configuration = configuration
    if locals.count > 1 { configuration.localAddresses = locals.map(\.address) }
    try await run(nil, remotes) { [configuration] loop in
      let endpoint = SCTPEndpoint(configuration: configuration, mtu: mtu, isListening: false, loop: loop)
      endpoint.furtherRemotes = Array(remotes.dropFirst())
      return (
        endpoint,
        { trial in
          let bound = NIOLoopBound((endpoint, trial), eventLoop: loop)
          return Self.each(locals, loop) { endpoint.bind($0).map { "\($0)" } }.map { here in
            let (endpoint, trial) = bound.value
            trial.begin(endpoint.connect(from: first.address, to: remote))
            return here
          }
        }
      )
    }
  }

  package func listenTCP(_ addresses: [Endpoint]) async throws {
    var configuration = configuration
    if addresses.count > 1 { configuration.localAddresses = addresses.map(\.address) }
    try await run("listening on tcp", addresses) { [configuration] loop in
      let endpoint = StreamEndpoint(configuration: configuration, loop: loop)
      return (endpoint, { _ in Self.each(addresses, loop) { endpoint.listen($0).map { "\($0)" } } })
    }
  }

  package func connectTCP(from local: IPAddress?, to remote: Endpoint) async throws {
    try await run(nil, [remote]) { loop in
      let endpoint = StreamEndpoint(configuration: configuration, loop: loop)
      return (
        endpoint,
        { trial in
          let bound = NIOLoopBound(trial, eventLoop: loop)
          return endpoint.connect(from: local, to: remote).map { id in
            bound.value.begin(id)
            return "\(id)"
          }
        }
      )
    }
  }

  /// One after the other, so that each finds the port of the one before it.
  private static func each(
    _ addresses: [Endpoint], _ loop: any EventLoop, _ body: @escaping (Endpoint) -> EventLoopFuture<String>
  ) -> EventLoopFuture<String> {
    let bound = NIOLoopBound(body, eventLoop: loop)
    return addresses.reduce(loop.makeSucceededFuture("")) { all, address in
      all.flatMap { done in bound.value(address).map { done.isEmpty ? $0 : "\(done), \($0)" } }
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

  private func print(_ line: SCTPTrialLine) {
    let at = SessionDriver.now() - began
    switch output {
    case .json: Self.write(line.json(at: at), to: STDOUT_FILENO)
    case .results where !line.isResult: break
    case .results, .events: Self.write(line.text(at: at), to: line.isResult ? STDOUT_FILENO : STDERR_FILENO)
    }
  }

  private typealias Start = (SCTPTrial) -> EventLoopFuture<String>

  /// Makes transport and trial on the loop, starts them, and waits for the result, or for the task to be cancelled.
  private func run(
    _ greeting: String?, _ addresses: [Endpoint], _ make: @escaping @Sendable (any EventLoop) -> (any MessageTransport, Start)
  ) async throws {
    let (runner, loop) = (self, loop)
    let (bound, ready) = try await loop.submit {
      let (transport, start) = make(loop)
      let trial = SCTPTrial(runner.settings, transport, loop: loop) { runner.print($0) }
      return (NIOLoopBound((transport, trial), eventLoop: loop), start(trial))
    }.get()
    do {
      let place = try await ready.get()
      if let greeting {
        print(SCTPTrialLine("listening", "\(greeting) \(place)", [("place", .text(place))], isResult: true))
      }
    } catch {
      throw SCTPTrialError(description: "\(addresses.map(\.description).joined(separator: ", ")): \(describe(error))")
    }
    readCommands { line in loop.execute { bound.value.1.obey(line) } }
    let result = try await loop.submit { bound.value.1.result }.get()
    let trial = Task { try await result.get() }
    let outcome = await withTaskCancellationHandler {
      await trial.result
    } onCancel: {
      loop.execute { bound.value.1.stop() }
    }
    // The last packet, SHUTDOWN COMPLETE mostly, is written behind the event that ended the trial: the program must not end before it.
    try await loop.submit { bound.value.0.close() }.get()
    try outcome.get()
  }

  /// On a thread of its own, which the program's end takes with it. The end of the input, or none, means that nobody has anything to say.
  private func readCommands(_ take: @escaping @Sendable (String) -> Void) {
    signal(SIGTTIN, SIG_IGN)  // in a shell's background there is no input, and that is no reason to stop
    NIOThreadPool.singleton.submit { _ in
      while let line = readLine() { take(line) }
    }
  }
}
