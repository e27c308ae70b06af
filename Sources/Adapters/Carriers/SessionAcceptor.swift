import Flows
import Logging
import NIOCore
import SCTP
import Sealing
import Sockets
import Vocabulary

/// The passive end of an agent's sessions: carriers come in, and each is led to its session.
///
/// A carrier's first packet decides. INIT is answered without keeping anything; a valid COOKIE ECHO makes a session; a packet with the
/// verification tag of a session goes to that session, which follows it only if it is authenticated. An agent with certificates takes sealed
/// sessions only: `SessionAcceptor+Sealing.swift`.
package final class SessionAcceptor {
  /// Carriers that have not reached a session yet. A handshake takes two round trips; one that takes longer than this is nobody's.
  package static let longestHandshake = TimeAmount.seconds(20)
  /// Memory for carriers that say nothing: 4,096 x about 4 KB. Beyond that the oldest gives way, so that thousands that say nothing do not keep a client out that speaks.
  package static let maximumStrangers = 4_096

  /// Clients of one machine: 16,384 x 32 KiB idle are 512 MiB.
  package static let maximumSessions = 16_384

  package let loop: any EventLoop
  private var listener: SessionListener
  private let limits: FlowLimits
  private var sessions: [UInt32: SessionDriver] = [:]
  var strangers: [CarrierID: Stranger] = [:]
  private var lastCarrier: UInt64 = 0
  let logger: Logger
  /// Nil: sessions are not sealed.
  let sealing: Sealed?
  var sealedSessions: [SealedSessionID: SealedSession] = [:]
  /// No stranger is older than this one.
  private var oldestStranger: UInt64 = 1
  private let maximumStrangers: Int
  private let budget: DescriptorBudget
  private var nextComplaint = NIODeadline.uptimeNanoseconds(0)
  private var refusals = LineBudget()
  /// Prepares a new session: its events and its flows.
  private let onSession: (SessionDriver) -> Void

  struct Stranger {
    var carrier: Carrier
    var channel: any Channel
    var local: IPAddress
    var remote: IPAddress
    var timeout: Scheduled<Void>
    /// The sealed session that is being opened on this carrier, and its own passive end.
    var opening: (session: SealedSessionID, listener: SessionListener)?
  }

  /// - Parameters:
  ///   - listener: for sessions that are not sealed; sealed ones get their own from `sealing`.
  ///   - budget: one descriptor of it for each carrier.
  package init(
    listener: SessionListener, sealing: Sealed? = nil, limits: FlowLimits, loop: any EventLoop, logger: Logger,
    maximumStrangers: Int = SessionAcceptor.maximumStrangers, budget: DescriptorBudget = DescriptorBudget(),
    onSession: @escaping (SessionDriver) -> Void
  ) {
    self.listener = listener
    self.sealing = sealing
    self.limits = limits
    self.loop = loop
    self.logger = logger
    self.maximumStrangers = maximumStrangers
    self.budget = budget
    self.onSession = onSession
  }

  package var count: Int { sessions.count }
  /// Carriers that have not reached a session yet.
  package var strangerCount: Int { strangers.count }
  package var all: [SessionDriver] { sessions.sorted { $0.key < $1.key }.map(\.value) }

  /// A TCP connection has been accepted on the acceptor's event loop.
  package func accept(_ channel: any Channel) throws {
    loop.preconditionInEventLoop()
    if strangers.count >= maximumStrangers { dropOldestStranger("too many connections that say nothing") }
    guard let local = channel.localAddress?.vocabulary, let remote = channel.remoteAddress?.vocabulary else {
      return channel.close(promise: nil)
    }
    guard budget.take() else {
      complain(
        "carrier refused: all \(budget.limit) descriptors are in use; raise the limit on open files (LimitNOFILE= in a systemd unit, or ulimit -Hn)"
      )
      dropOldestStranger("no descriptor is left")
      return channel.close(promise: nil)
    }
    let loopBudget = NIOLoopBound(budget, eventLoop: loop)
    channel.closeFuture.whenComplete { _ in loopBudget.value.giveBack() }
    lastCarrier += 1
    let carrier = Carrier(
      id: CarrierID(lastCarrier),
      events: Carrier.Events(
        packet: { [weak self] in self?.receive($1, from: $0) }, readComplete: { _ in }, writability: { _, _ in },
        closed: { [weak self] carrier, reason in self?.lost(carrier.id, reason) }))
    let bound = NIOLoopBound(self, eventLoop: loop)
    let id = carrier.id
    let timeout = loop.scheduleTask(in: SessionAcceptor.longestHandshake) { () -> Void in
      bound.value.dismiss(id, "no session after \(SessionAcceptor.longestHandshake.nanoseconds / 1_000_000_000) s")
    }
    strangers[id] = Stranger(carrier: carrier, channel: channel, local: local.address, remote: remote.address, timeout: timeout)
    let pipeline = channel.pipeline.syncOperations
    guard let sealing else { return try pipeline.addHandler(carrier) }
    // The connection may end before there is a carrier in it.
    channel.closeFuture.assumeIsolated().whenComplete { _ in bound.value.lost(id, "closed before it said what it is") }
    try pipeline.addHandler(
      CarrierOpeningHandler { opening, channel in bound.value.begin(opening, on: id, channel, sealing) })
  }

  private func lost(_ id: CarrierID, _ reason: String) {
    guard let stranger = forget(id), sealing != nil else { return }
    guard refusals.admits(at: .now()) else { return }
    logger.notice("carrier refused: \(reason)", metadata: ["remote": "\(stranger.remote)", "untold": "\(refusals.takeUntold())"])
  }

  func dismiss(_ id: CarrierID, _ reason: String) {
    guard let stranger = strangers[id] else { return }
    stranger.carrier.close(reason)
    lost(id, reason)
    stranger.channel.close(promise: nil)
  }

  @discardableResult
  func forget(_ id: CarrierID) -> Stranger? {
    guard let stranger = strangers.removeValue(forKey: id) else { return nil }
    stranger.timeout.cancel()
    if let session = stranger.opening?.session, sealedSessions[session]?.driver == nil { sealedSessions[session] = nil }
    return stranger
  }

  private func dropOldestStranger(_ reason: String) {
    while oldestStranger <= lastCarrier {
      let id = CarrierID(oldestStranger)
      oldestStranger += 1
      guard strangers[id] != nil else { continue }
      return dismiss(id, reason)
    }
  }

  /// A limit that has been reached is told once in ten seconds: whoever floods us should not flood the log.
  private func complain(_ what: String) {
    guard NIODeadline.now() >= nextComplaint else { return }
    nextComplaint = .now() + .seconds(10)
    logger.warning("\(what)")
  }

  private func receive(_ packet: ByteBuffer, from carrier: Carrier) {
    guard let stranger = strangers[carrier.id] else { return }
    let now = SessionDriver.now()
    let action =
      strangers[carrier.id]?.opening?.listener.receive(packet, on: carrier.id, local: stranger.local, remote: stranger.remote, at: now)
      ?? listener.receive(packet, on: carrier.id, local: stranger.local, remote: stranger.remote, at: now)
    switch action {
    case .reply(let answer):
      carrier.write(answer)
      carrier.flush()
    case .accept(let association):
      let tag = association.localVerificationTag
      guard sessions.count < SessionAcceptor.maximumSessions else {
        complain("session of \(stranger.remote) refused: \(SessionAcceptor.maximumSessions) are open, which is the limit of an agent")
        return carrier.close("too many sessions")
      }
      guard sessions[tag] == nil else { return carrier.close("a session has this verification tag already") }
      let session = SessionDriver(
        association: association, loop: loop, role: .acceptor, limits: limits, logger: logger, onIncoming: { _, _ in })
      sessions[tag] = session
      if let id = stranger.opening?.session {
        sealedSessions[id]?.driver = session
        session.sealedID = id
        session.clientName = sealedSessions[id]?.client.description
      }
      forget(carrier.id)
      onSession(session)
      session.adopt(carrier, local: stranger.local)
    case .existing where stranger.opening != nil: carrier.close("a packet of another session while one is being opened")
    case .existing(let tag):
      guard let session = sessions[tag] else {
        logger.info("carrier refused: its session is unknown here", metadata: ["remote": "\(stranger.remote)"])
        if let answer = OutOfTheBlue.answer(to: packet, reason: "the agent does not know this session: it was started again") {
          carrier.write(answer)
        }
        return carrier.closeAfterFlush("unknown session")
      }
      forget(carrier.id)
      session.open(carrier, local: stranger.local, remote: stranger.remote)
      session.receive(packet, on: carrier.id)
    case .refuse(let reply, let reason):
      logger.warning("session refused: \(reason)", metadata: ["remote": "\(stranger.remote)"])
      if let reply { carrier.write(reply) }
      carrier.closeAfterFlush(reason)
    case .ignore(let reason): logger.debug("packet ignored: \(reason)", metadata: ["remote": "\(stranger.remote)"])
    }
  }

  /// A session is over; its tag means nothing from here on.
  package func remove(_ session: SessionDriver) {
    sessions.removeValue(forKey: session.association.localVerificationTag)
    if let id = session.sealedID { sealedSessions[id] = nil }
  }
}
