import Carriers
import Certificates
import Control
import Flows
import Interception
import NIOCore
import NIOPosix
import SCTP
import Sealing
import Sockets
import Vocabulary

// Connections towards the agent, and the carriers on them.

extension ClientSession {
  func dial(
    _ place: Recovery.Place, answerLimit: TimeAmount = InterceptionLimits.answer, then: @escaping (Result<Dialled, any Error>) -> Void
  ) {
    lastCarrier += 1
    let id = CarrierID(lastCarrier)
    connect(to: place) { channel, request in
      then(
        Result { try Dialled(channel.get(), id: id, request: request, answerLimit: answerLimit, security: self.security(of: id)) })
    }
  }

  /// A TCP connection towards the agent there, and what to ask the accelerator for that it leads to.
  func connect(to place: Recovery.Place, then: @escaping (Result<any Channel, any Error>, FlowTarget?) -> Void) {
    var bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(ClientSession.dialLimit)
      .channelOption(.writeBufferWaterMark, value: Carrier.waterMarks)
      .channelOption(.recvAllocator, value: growingReads(upTo: 128 << 10))
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .channelOption(CarrierOptions.notSentLowWater, value: SocketOptionValue(Carrier.notSentLowWater))
    if let carrierWindow {
      bootstrap =
        bootstrap
        .channelOption(.socketOption(.so_rcvbuf), value: SocketOptionValue(carrierWindow))
        .channelOption(CarrierOptions.windowClamp, value: SocketOptionValue(carrierWindow))
    }
    let address: Endpoint
    let request: FlowTarget?
    switch place.path {
    case .direct:
      address = place.agent
      request = nil
    case .accelerated(let entrance, _):
      address = entrance
      request = FlowTarget(host: place.agent.address.description, port: place.agent.port)
    }
    do {
      let connecting = try bootstrap.connect(to: SocketAddress(address))
      connecting.assumeIsolated().whenComplete { then($0, request) }
    } catch {
      then(.failure(error), request)
    }
  }
}

/// A connection that stands, with its carrier in place.
struct Dialled {
  var carrier: Carrier
  var local: IPAddress
  var remote: IPAddress
  /// The sealed session that the exchange on this carrier opens.
  var session: SealedSessionID?

  /// What guards a new carrier.
  enum Security {
    case open
    case exchange(NodeIdentity, agent: MachineID, session: SealedSessionID, onOutcome: (ClientExchangeHandler.Outcome) -> Void)
    case sealed(SessionSecret, SealedPreface)
  }

  /// Makes a carrier of a connected channel. Behind a CONNECT request the first flight need not wait for the answer.
  init(_ channel: any Channel, id: CarrierID, request: FlowTarget?, answerLimit: TimeAmount, security: Security) throws {
    guard let local = channel.localAddress?.vocabulary, let remote = channel.remoteAddress?.vocabulary else {
      throw ChannelError.alreadyClosed
    }
    carrier = Carrier(
      id: id, events: Carrier.Events(packet: { _, _ in }, readComplete: { _ in }, writability: { _, _ in }, closed: { _, _ in }))
    let pipeline = channel.pipeline.syncOperations
    if let request { try pipeline.addHandler(ConnectRequestHandler(target: request, limit: answerLimit)) }
    switch security {
    case .open: break
    case .exchange(let identity, let agent, let session, let onOutcome):
      self.session = session
      let gate = try identity.secure(pipeline, as: .client, expecting: .agent(agent.text))
      try pipeline.addHandler(
        ClientExchangeHandler(
          name: identity.name, gate: gate, purpose: .open, session: session, carrier: carrier, onOutcome: onOutcome))
    case .sealed(let secret, let preface):
      carrier.seal(with: secret.sealer(carrier: preface.carrier, .toAgent), preface: preface)
      carrier.expectSealed(by: secret.opener(carrier: preface.carrier, .toClient))
    }
    try pipeline.addHandler(carrier)
    self.local = local.address
    self.remote = remote.address
  }
}
