import Carriers
import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

let loopback = IPAddress("127.0.0.1")!

struct TrialMessage: Sendable {
  var stream: UInt16
  var size: Int
  var fill: UInt8
  var isUnordered = false

  var payload: ByteBuffer { ByteBuffer(repeating: fill, count: size) }
}

struct TrialError: Error, CustomStringConvertible {
  var description: String
}

/// Our end of a trial: sends messages and wants them back, or sends back what comes. Lives on its loop.
final class Trial {
  let endpoint: SCTPEndpoint
  private(set) var statistics = AssociationStatistics()
  private(set) var association: AssociationID?
  private var toSend: [TrialMessage] = []
  private var sent = 0
  private var awaited: [UInt16: [TrialMessage]] = [:]
  private var left = 0
  private var waiting: [(StreamID, UInt32, ByteBuffer)] = []
  private let done: EventLoopPromise<Void>

  static func configuration(key: [UInt8]?, port: UInt16, peerPort: UInt16) -> AssociationConfiguration {
    var configuration = AssociationConfiguration(endpointKey: key ?? [])
    configuration.port = port
    configuration.peerPort = peerPort
    configuration.features.isRequired = false
    configuration.features.authentication = key != nil
    configuration.features.offersSHA1 = true
    configuration.paths.minimumRTO = .milliseconds(200 as Int64)
    configuration.paths.initialRTO = .milliseconds(500 as Int64)
    configuration.paths.associationRetransmissions = 40
    configuration.paths.pathRetransmissions = 20
    return configuration
  }

  init(_ configuration: AssociationConfiguration, isListening: Bool, loop: any EventLoop) {
    endpoint = SCTPEndpoint(configuration: configuration, mtu: DatagramCarrier.standardMTU, isListening: isListening, loop: loop)
    done = loop.makePromise()
    endpoint.onEvent = { [unowned self] in take($1, of: $0) }
    endpoint.onAccepted = { [unowned self] id, _ in association = id }
    loop.assumeIsolated().scheduleTask(in: .seconds(110)) { [weak self] in self?.fail("the trial took longer than its limit") }
  }

  var result: EventLoopFuture<Void> { done.futureResult }

  /// Sends all and succeeds when all has come back and the association has been shut down.
  func run(_ messages: [TrialMessage], to remote: Endpoint) {
    toSend = messages
    left = messages.count
    for message in messages { awaited[message.stream, default: []].append(message) }
    association = endpoint.connect(from: loopback, to: remote)
  }

  private func fail(_ what: String) { done.fail(TrialError(description: what)) }

  private func take(_ event: Effect, of id: AssociationID) {
    if let association = endpoint.association(id) { statistics = association.statistics }
    switch event {
    case .established: push(id)
    case .sendSpace:
      push(id)
      sendBack(id)
    case .deliver(let stream, let identifier, let payload):
      if toSend.isEmpty {
        waiting.append((stream, identifier, payload))
        sendBack(id)
      } else {
        check(stream.value, payload, id)
      }
    case .closed: done.succeed()
    case .failed(let error): fail("\(error)")
    default: break
    }
  }

  private func push(_ id: AssociationID) {
    while sent < toSend.count {
      let message = toSend[sent]
      guard
        endpoint.send(
          message.payload, stream: StreamID(message.stream), protocolIdentifier: 7, isUnordered: message.isUnordered,
          endOfWrite: sent + 1 == toSend.count, on: id)
      else { return }
      sent += 1
    }
  }

  private func sendBack(_ id: AssociationID) {
    while let (stream, identifier, payload) = waiting.first {
      guard endpoint.send(payload, stream: stream, protocolIdentifier: identifier, on: id) else { return }
      waiting.removeFirst()
    }
  }

  private func check(_ stream: UInt16, _ payload: ByteBuffer, _ id: AssociationID) {
    let candidates = awaited[stream] ?? []
    guard let index = candidates.firstIndex(where: { !$0.isUnordered || $0.payload == payload }), candidates[index].payload == payload
    else {
      return fail("\(payload.readableBytes) octets on stream \(stream) are not what was sent")
    }
    awaited[stream]?.remove(at: index)
    left -= 1
    if left == 0 { endpoint.shutdown(id) }
  }
}

/// Passes datagrams between the side that speaks first and `target`, and loses some, by a seed.
final class LossyRelay: ChannelInboundHandler {
  typealias InboundIn = AddressedEnvelope<ByteBuffer>
  typealias OutboundOut = AddressedEnvelope<ByteBuffer>

  private let target: SocketAddress
  private let loss: Double
  private var random: SeededGenerator
  private var caller: SocketAddress?

  private init(target: SocketAddress, loss: Double, seed: UInt64) {
    self.target = target
    self.loss = loss
    random = SeededGenerator(seed: seed)
  }

  /// The channel, bound to a free port of the loopback.
  static func start(to target: Endpoint, loss: Double, seed: UInt64, loop: any EventLoop) async throws -> (
    channel: any Channel, port: UInt16
  ) {
    let address = try SocketAddress(target)
    let channel = try await DatagramBootstrap(group: loop)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(LossyRelay(target: address, loss: loss, seed: seed))
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    return (channel, UInt16(channel.localAddress?.port ?? 0))
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let envelope = unwrapInboundIn(data)
    let isFromTarget = envelope.remoteAddress == target
    if !isFromTarget { caller = envelope.remoteAddress }
    guard let to = isFromTarget ? caller : target, Double.random(in: 0..<1, using: &random) >= loss else { return }
    context.write(wrapOutboundOut(AddressedEnvelope(remoteAddress: to, data: envelope.data)), promise: nil)
  }

  func channelReadComplete(context: ChannelHandlerContext) { context.flush() }
}
