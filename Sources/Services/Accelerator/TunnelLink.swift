import Certificates
import ChunkStores
import Compression
import Dedup
import Flows
import Interception
import Logging
import NIOCore
import Relay
import Sockets
import Tunnel
import Vocabulary

/// One tunnel connection: the engine, its flows and their codecs, on a channel. The last handler of its pipeline.
final class TunnelLink: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  /// What a link is made with.
  struct Setup {
    var role: TunnelConnection.Role
    var hello: TunnelHello
    var prover: TunnelProver
    var limits: FlowLimits
    var compresses: Bool
    var weights = FlowScheduler.Weights()
    /// The byte cache; nil for none.
    var store: (any ChunkStore)?
    var effort: CompressionEffort
    /// Which chunks each machine's flows use.
    var services: ServiceBook?
    var congestion: CongestionPolicy
    var logger: Logger
  }

  /// What its owner hears, on the link's event loop.
  struct Events {
    var established: (TunnelLink, TunnelHello) -> Void
    /// A flow that the peer opens; dial, then `hub.accept` or `hub.refuse`.
    var incoming: (TunnelLink, FlowID, FlowTarget) -> Void
    var warm: (TunnelLink, WarmRequest) -> Void
    /// What a third one's store has, as the peer says.
    var have: (PeerBelief) -> Void
    /// A warm-up has come to its end: octets of congestion window, and whether that is the whole window.
    var opened: (TunnelLink, Int, Bool) -> Void
    /// Once, at the end; nothing follows.
    var closed: (TunnelLink, TunnelClosure) -> Void
  }

  /// Identifiers: as many as an opener can use up before the oldest is free again, and few enough that remembering the free ones is cheap (256 KiB).
  static let identifiers: ClosedRange<UInt32> = 1...65_535
  /// Below this a payload is copied behind its header into one buffer; above, header and payload go out side by side (writev).
  static let copiedPayload = 2_048
  /// How long a last goodbye may take to leave.
  static let closing = TimeAmount.seconds(1)

  let loop: any EventLoop
  let setup: Setup
  let events: Events
  var engine: TunnelConnection
  /// Nil until the handshake is done, because the peer's HELLO says how many flows it takes.
  var hub: FlowHub?
  var peer: TunnelHello?
  /// Flows that both ends take.
  var maximumFlows = 0
  private(set) var context: ChannelHandlerContext?
  /// The living ones, and those that are over but for chunks that the peer has not found yet.
  var flows: [FlowID: LinkFlow] = [:]
  /// The request whose OPEN is being made.
  var opening: FlowRequest?
  /// The peer's store, if both ends have one.
  var cachePeer: PeerSlot?
  /// Octets that are kept because they have gone as names only.
  var pinnedOctets = 0
  /// Flows that hold octets for the end of their chunk.
  var holding: [LinkFlow] = []
  var holdTask: Scheduled<Void>?
  /// Identifiers of flows that are over, kept from use until nothing can be asked of them.
  var resting: Set<FlowID> = []
  /// How often the channel has been full.
  var fillings = 0
  /// Flows that have sent in this turn.
  var hasSent: [LinkFlow] = []
  private var timer: (at: Instant, task: Scheduled<Void>)?
  private var congestion: CongestionPolicy
  private var isDraining = false
  private(set) var isClosed = false
  /// This end opens no flows here any more, and wants none.
  var isLeaving = false
  /// The peer said the same.
  var hasPeerLeft = false
  var warmUp: WarmUp?
  var warmTask: Scheduled<Void>?
  private var pacing: BitRate?
  var octetsSinceDeal = 0
  /// Payload and padding written so far.
  var octetsWritten = 0
  /// The figures of the flows that have ended.
  var ended = FlowStatistics()
  private(set) var roundTrip: TimeSpan?
  /// Set by the owner when the peer is known: who shares the rate with this connection.
  var group: PacingGroup?

  init(loop: any EventLoop, setup: Setup, events: Events) {
    self.loop = loop
    self.setup = setup
    congestion = setup.congestion
    self.events = events
    engine = TunnelConnection(role: setup.role, hello: setup.hello, prover: setup.prover, at: TunnelLink.now())
  }

  static func now() -> Instant { Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)) }
}

// MARK: Ask it

extension TunnelLink {
  var isEstablished: Bool { hub != nil && !isClosed }
  var flowCount: Int { hub?.count ?? 0 }
  /// Another flow can be opened.
  var hasPlace: Bool { isEstablished && !isLeaving && flowCount < maximumFlows }
  /// Octets of flows wait here for the kernel, or sockets for octets to leave. While a window is opened what waits is padding.
  var hasBacklog: Bool { hub?.isStarved == true || bufferedOctets > 0 && !isOpeningWindow }
  /// A warm-up is at work: padding is under way.
  var isOpeningWindow: Bool { warmUp?.isOpening == true }
  var isWarm: Bool { warmUp?.isOpening == false }

  /// What all its flows came to, ended and living.
  var statistics: FlowStatistics { flows.values.reduce(into: ended) { $0 += $1.codec.statistics } }

  func takeOctetsSinceDeal() -> Int {
    defer { octetsSinceDeal = 0 }
    return octetsSinceDeal
  }

  /// The flow that has this identifier now, as one object that no later flow is.
  func flow(_ id: FlowID) -> LinkFlow? { flows[id] }

  /// Takes another congestion control if segments are being lost. Called when data begins to flow, and some times in a second while it does.
  func watchLosses() {
    guard let context, let state = TCPSocket.state(context.channel) else { return }
    if congestion.observe(sent: state.sentSegments, retransmitted: state.retransmittedSegments) {
      TCPSocket.setCongestionControl(context.channel, congestion.control)
      setup.logger.debug("tunnel connection loses segments: BBR from here on", metadata: ["peer": "\(peer?.node.text ?? "")"])
      return
    }
    guard let rate = group?.limit, let roundTrip = state.leastRoundTrip,
      congestion.renews(
        window: state.congestionWindowSegments * state.segmentOctets, needed: rate.bytes(in: roundTrip).octets,
        isIdle: state.unacknowledged == 0, at: TunnelLink.now())
    else { return }
    // The same name again would change nothing.
    TCPSocket.setCongestionControl(context.channel, .cubic)
    TCPSocket.setCongestionControl(context.channel, .bbr)
  }

  func tcpState() -> TCPState? { context.flatMap { TCPSocket.state($0.channel) } }

  var bufferedOctets: Int { (try? context?.channel.syncOptions?.getOption(.bufferedWritableBytes)) ?? 0 }
}

// MARK: Tell it

extension TunnelLink {
  /// Opens a flow for an application that waits. Precondition: established, as dialler.
  func open(_ request: FlowRequest, for client: any WaitingClient) {
    guard let hub, !isClosed else { return client.refuse(.lost) }
    do throws(FlowRefusal) {
      opening = request  // the hub hands OPEN over before it returns
      defer { opening = nil }
      let id = try hub.open(request.target, window: request.grant?.creditWindow) { refusal in
        if let refusal { client.refuse(refusal) } else { client.accept() }
      }
      hub.setPriority(request.priority, of: id)
      hub.join(client.channel, to: id, gate: request.grant?.account.gate)
      client.startRelaying()
    } catch {
      client.refuse(error)
    }
  }

  func setPacing(_ rate: BitRate?) {
    guard rate != pacing, let context else { return }
    pacing = rate
    TCPSocket.setPacing(context.channel, octetsPerSecond: rate.map { UInt64($0.bitsPerSecond / 8) })
  }

  /// Sends a frame that is not of a flow. Precondition: established.
  func say(_ frame: TunnelFrame) {
    engine.send(frame)
    drain()
  }

  /// Says goodbye and closes; every flow ends with a RST.
  func close(_ goodbye: TunnelGoodbye) {
    engine.fail(goodbye)
    drain()
  }
}

extension TunnelLink {
  /// Ends the connection with a RST, as a network that forgets it does.
  func abort() {
    guard let context else { return }
    SocketRelay.setAbortive(true, context.channel)
    if !PeerGate.closeBelowTLS(context.channel) { context.close(promise: nil) }
  }
}

// MARK: The channel

extension TunnelLink {
  func handlerAdded(context: ChannelHandlerContext) {
    self.context = context
    TCPSocket.tune(context.channel, congestion.control)
    if context.channel.isActive { drain() }
  }

  func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

  func channelActive(context: ChannelHandlerContext) { drain() }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    engine.receive(unwrapInboundIn(data), at: TunnelLink.now())
    drain()
  }

  func channelReadComplete(context: ChannelHandlerContext) {
    hub?.receiveComplete()
    releaseIdentifiers()
    context.flush()
  }

  func channelWritabilityChanged(context: ChannelHandlerContext) {
    if context.channel.isWritable { hub?.transportHasSpace() } else { fillings += 1 }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    switch error {
    case let goodbye as TunnelGoodbye: finish(.here(goodbye))
    case is CertificateError: finish(.here(TunnelGoodbye(.wrongKey, "\(error)")))
    default: finish(.here(TunnelGoodbye(.silent, "the connection failed: \(describe(error))")))
    }
  }

  func channelInactive(context: ChannelHandlerContext) {
    finish(.here(TunnelGoodbye(.silent, "the connection was closed by the peer")))
  }

  private func finish(_ closure: TunnelClosure) {
    guard !isClosed else { return }
    isClosed = true
    timer?.task.cancel()
    warmTask?.cancel()
    warmUp = nil
    holdTask?.cancel()
    hub?.transportLost(.lost)
    for id in flows.keys.sorted() { abandon(id) }
    holding.removeAll()
    events.closed(self, closure)
    // What was written before (a goodbye) still goes out.
    guard let context else { return }
    context.writeAndFlush(wrapOutboundOut(ByteBuffer())).assumeIsolated().whenComplete { _ in self.context?.close(promise: nil) }
    loop.assumeIsolated().scheduleTask(in: TunnelLink.closing) { [weak self] in self?.context?.close(promise: nil) }
  }
}

// MARK: The engine's effects

extension TunnelLink {
  func drain() {
    guard !isDraining, context != nil else { return }
    isDraining = true
    var hasWritten = false
    while let effect = engine.nextEffect() {
      switch effect {
      case .send(let bytes):
        context?.write(wrapOutboundOut(bytes), promise: nil)
        hasWritten = true
      case .established(let hello): establish(hello)
      case .flow(let id, let frame, let terms): receive(frame, terms, on: id)
      case .coded(let id, let frame): receive(frame, on: id)
      case .roundTrip(let span):
        roundTrip = span
        restFlows()
      case .warm(let request): events.warm(self, request)
      case .have(let have): events.have(have)
      case .leaving: peerLeaves()
      case .close(let closure): finish(closure)
      }
    }
    isDraining = false
    if hasWritten { context?.flush() }
    watchDeadline()
  }

  private func watchDeadline() {
    guard !isClosed, let deadline = engine.deadline else { return }
    if let timer, timer.at == deadline { return }
    timer?.task.cancel()
    let task = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(UInt64(max(deadline.nanoseconds, 0)))) { [weak self] in
      guard let self else { return }
      self.timer = nil
      self.engine.handleDeadline(at: TunnelLink.now())
      self.drain()
    }
    timer = (deadline, task)
  }
}
