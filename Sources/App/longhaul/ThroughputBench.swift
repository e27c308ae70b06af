import Carriers
import Glibc
import NIOCore
import NIOPosix
import SCTP
import Sealing
import Vocabulary

/// One association between two endpoints of this process, and messages of one size over it as fast as they go.
struct ThroughputBench {
  enum CarrierKind: String {
    case tcp, udp
    /// TCP with every packet under AES-128-GCM, as in a sealed session.
    case sealed
  }

  struct Trial {
    var carrier: CarrierKind
    var messageOctets: Int
    /// Both ends on one event loop, that is one core; else each has its own.
    var isOnOneCore: Bool
  }

  struct Sample {
    var seconds: Double
    var cpuSeconds: Double
    var octets: Int
    var messages: Int

    var megabitsPerSecond: Double { Double(octets) * 8 / seconds / 1e6 }
    var messagesPerSecond: Double { Double(messages) / seconds }
    /// Of both ends together.
    var cpuSecondsPerGigabyte: Double { cpuSeconds / (Double(octets) / 1e9) }
  }

  /// What a source keeps queued: enough that it never waits, and little enough that memory is not what is measured.
  static let warmUp = TimeSpan.milliseconds(300 as Int64)

  let seconds: Double

  func run(_ trial: Trial) async throws -> Sample {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
    let loops = Array(group.makeIterator())
    let (sinkLoop, sourceLoop) = (loops[0], trial.isOnOneCore ? loops[0] : loops[1])
    let sink = try await sinkLoop.submit { NIOLoopBound(Sink(Self.transport(trial, isListening: true, on: sinkLoop)), eventLoop: sinkLoop) }
      .get()
    let place = try await sinkLoop.flatSubmit { Self.listen(sink.value.transport) }.get()
    let octets = trial.messageOctets
    let source = try await sourceLoop.submit {
      NIOLoopBound(
        Source(Self.transport(trial, isListening: false, on: sourceLoop), octets: octets), eventLoop: sourceLoop)
    }.get()
    try await sourceLoop.flatSubmit { source.value.start(to: place) }.get()
    try await Task.sleep(for: .nanoseconds(Self.warmUp.nanoseconds))
    let before = try await sinkLoop.submit { sink.value.mark() }.get()
    try await Task.sleep(for: .seconds(seconds))
    let after = try await sinkLoop.submit { sink.value.mark() }.get()
    let failure = try await sourceLoop.submit {
      source.value.stop()
      return source.value.failure
    }.get()
    try await sinkLoop.submit { sink.value.transport.close() }.get()
    try? await group.shutdownGracefully()
    if let failure { throw BenchError(description: "bench sctp: the association failed: \(failure)") }
    return Sample(
      seconds: Double(after.at.uptimeNanoseconds - before.at.uptimeNanoseconds) / 1e9, cpuSeconds: after.cpu - before.cpu,
      octets: after.octets - before.octets, messages: after.messages - before.messages)
  }

  // MARK: The two kinds of carriers

  private static let here = IPAddress.v4(0x7f00_0001)

  private static var configuration: AssociationConfiguration {
    var configuration = AssociationConfiguration(endpointKey: Array("longhaul bench sctp".utf8))
    configuration.features.isRequired = false
    return configuration
  }

  private static let secret: SessionSecret? = SealedSessionID(Array(repeating: 7, count: SealedSessionID.octetCount)).map {
    SessionSecret(
      client: Array(repeating: 1, count: SessionSecret.contributionOctets),
      agent: Array(repeating: 2, count: SessionSecret.contributionOctets),
      session: $0, clientName: "client/bench", agentName: "agent/bench")
  }

  private static func transport(_ trial: Trial, isListening: Bool, on loop: any EventLoop) -> any MessageTransport {
    switch trial.carrier {
    case .tcp: StreamEndpoint(configuration: configuration, loop: loop)
    case .sealed: StreamEndpoint(configuration: configuration, secret: secret, loop: loop)
    case .udp:
      SCTPEndpoint(configuration: configuration, mtu: DatagramCarrier.standardMTU, isListening: isListening, loop: loop)
    }
  }

  private static func listen(_ transport: any MessageTransport) -> EventLoopFuture<Endpoint> {
    let any = Endpoint(address: here, port: 0)
    if let stream = transport as? StreamEndpoint { return stream.listen(any) }
    guard let datagrams = transport as? SCTPEndpoint else { preconditionFailure("a transport is one of the two") }
    return datagrams.bind(any)
  }

  /// Counts what comes.
  private final class Sink {
    let transport: any MessageTransport
    private var octets = 0
    private var messages = 0

    init(_ transport: any MessageTransport) {
      self.transport = transport
      transport.onEvent = { [unowned self] _, event in
        guard case .deliver(_, _, let payload) = event else { return }
        octets += payload.readableBytes
        messages += 1
      }
    }

    struct Mark {
      var at: NIODeadline
      var cpu: Double
      var octets: Int
      var messages: Int
    }

    func mark() -> Mark { Mark(at: .now(), cpu: processSeconds(), octets: octets, messages: messages) }
  }

  /// Sends whenever there is space.
  private final class Source {
    private let transport: any MessageTransport
    private let message: ByteBuffer
    private var id: AssociationID?
    private(set) var failure: String?
    private var isStopped = false

    init(_ transport: any MessageTransport, octets: Int) {
      self.transport = transport
      message = ByteBuffer(repeating: 0x5a, count: octets)
      transport.onEvent = { [unowned self] id, event in
        switch event {
        case .established, .sendSpace: push(id)
        case .failed(let error): if !isStopped { failure = "\(error)" }
        default: break
        }
      }
    }

    func start(to place: Endpoint) -> EventLoopFuture<Void> {
      if let stream = transport as? StreamEndpoint { return stream.connect(to: place).map { _ in } }
      guard let datagrams = transport as? SCTPEndpoint else { preconditionFailure("a transport is one of the two") }
      let bound = NIOLoopBound(datagrams, eventLoop: datagrams.loop)
      return datagrams.bind(Endpoint(address: ThroughputBench.here, port: 0)).map { local in
        _ = bound.value.connect(from: local.address, to: place)
      }
    }

    private func push(_ id: AssociationID) {
      while !isStopped,
        transport.send(
          message, stream: StreamID(0), protocolIdentifier: 1, isUnordered: false, reliability: .full, endOfWrite: false, on: id)
      {}
    }

    func stop() {
      isStopped = true
      transport.close()
    }
  }
}

/// Why a bench could not be done, in words.
struct BenchError: Error, CustomStringConvertible { var description: String }

/// Processor time of this process so far, in seconds.
func processSeconds() -> Double {
  var usage = rusage()
  getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
  return [usage.ru_utime, usage.ru_stime].reduce(0) { $0 + Double($1.tv_sec) + Double($1.tv_usec) / 1e6 }
}

/// The one in the middle; of an even number the mean of two.
func median(_ values: [Double]) -> Double {
  let sorted = values.sorted()
  guard !sorted.isEmpty else { return 0 }
  let middle = sorted.count / 2
  return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
