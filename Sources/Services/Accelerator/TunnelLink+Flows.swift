import ChunkStores
import Compression
import Dedup
import Flows
import Logging
import NIOCore
import Relay
import Tunnel
import Vocabulary

// The flows of a tunnel connection and their codecs: what the peer says of them, and what goes out.

extension TunnelLink {
  /// Octets that are kept for a peer that may say MISSING: two windows of 100 Mbit/s x 500 ms, names included. Beyond it all goes out in full.
  static let maximumPinned = 128 << 20
  /// Octets of chunks that one flow gets from the store ahead of its socket: what a stopped receiver costs beside the names. 1 Gbit/s x 8 ms.
  static let chunksAhead = 1 << 20
  /// How long the start of a chunk may wait for the rest while the flow moves much: a sixteenth of the round trip, within these. (2 ms: at 100 Mbit/s two chunks.)
  static let shortestHold = TimeSpan.milliseconds(Int64(2))
  static let longestHold = TimeSpan.milliseconds(Int64(10))

  /// The best coding that this end uses on a flow of this connection.
  private var coding: DataCoding { !setup.compresses ? .plain : cachePeer == nil ? .zstd : .cached }

  func establish(_ hello: TunnelHello) {
    var limits = setup.limits
    limits.window *= LiteralWindow.namesFactor
    limits.maximumFlows = max(min(limits.maximumFlows, Int(hello.maximumFlows)), 1)
    let hub = FlowHub(
      loop: loop, role: setup.role == .dialler ? .opener : .acceptor, limits: limits, identifiers: TunnelLink.identifiers,
      identifiersRest: true,
      maximumDataOctets: TunnelLimits.dataOctets, logger: setup.logger
    ) { [weak self] id, target in
      guard let self else { return }
      self.events.incoming(self, id, target)
    }
    hub.onPassedOn = { [weak self] id in self?.passedOn(id) }
    hub.attach(transport: self)
    hub.setWeights(setup.weights)
    maximumFlows = limits.maximumFlows
    self.hub = hub
    peer = hello
    if let store = setup.store, hello.store != 0 { cachePeer = store.slot(of: hello.node, store: hello.store) }
    events.established(self, hello)
  }

  private func makeFlow(_ id: FlowID, _ target: FlowTarget, _ terms: FlowTerms) {
    let ring = IPAddress(target.host).flatMap { setup.services?.ring(of: $0) }
    let cache = setup.store.flatMap { store in cachePeer.map { ByteCache(store: store, peer: $0, tenant: terms.tenant, ring: ring) } }
    let codec = FlowCodec(
      outbound: terms.outbound, inbound: terms.inbound, cache: cache, window: setup.limits.window * LiteralWindow.namesFactor,
      effort: setup.effort, loop: loop)
    let flow = LinkFlow(id: id, target: target, terms: terms, codec: codec, since: TunnelLink.now())
    codec.onProgress = { [weak self, weak flow] in
      guard let self, let flow, self.flows[id] === flow else { return }
      self.move(flow)
      self.hub?.receiveComplete()
    }
    flows[id] = flow
  }
}

// MARK: What the peer says

extension TunnelLink {
  /// A frame of a flow that this end has forgotten is late, and dropped.
  func receive(_ frame: FlowFrame, _ terms: FlowTerms, on id: FlowID) {
    switch frame {
    case .open(let target, let window):
      // The dialler's coding is its own choice; ours is the one it offers, if this end does as much.
      var ours = terms
      ours.inbound = terms.outbound
      ours.outbound = min(terms.inbound, coding)
      if let former = flows[id], former.isOver { forget(former) }
      if flows[id] == nil { makeFlow(id, target, ours) }  // else the hub knows a violation when it sees one
      limit(id, window)
      give(frame, to: id)
      hub?.setPriority(terms.priority, of: id)
    case .opened(let window):
      flows[id]?.codec.answered(terms.outbound)
      limit(id, window)
      give(frame, to: id)
    case .end:
      guard let flow = flows[id] else { return give(frame, to: id) }
      flow.hasReceivedEnd = true
      do throws(CodecViolation) {
        try flow.codec.endReceiving()
      } catch {
        return engine.fail(TunnelGoodbye(.violation, "flow \(id): \(error)"))
      }
      move(flow)
    case .reset:
      give(frame, to: id)
      abandon(id)
    case .refused:
      give(frame, to: id)
      abandon(id)
    case .credit(let octets):
      give(frame, to: id)
      let wasFull = flows[id]?.literals?.room == 0
      flows[id]?.literals?.credit(Int(octets))
      if wasFull { hub?.resume(id) }
    case .data: return  // comes as a coded frame
    }
  }

  private func limit(_ id: FlowID, _ window: UInt32) {
    guard let flow = flows[id] else { return }
    flow.literals = LiteralWindow(limit: max(Int(window) / LiteralWindow.namesFactor, setup.limits.earlyData))
    noteLiterals(of: flow)
  }

  private func noteLiterals(of flow: LinkFlow) {
    let figures = flow.codec.statistics
    flow.literals?.sent(figures.plainSent, literal: figures.plainSent - figures.referencedSent)
  }

  func receive(_ frame: CodedFrame, on id: FlowID) {
    guard let flow = flows[id] else { return }
    touch(flow)
    do throws(CodecViolation) {
      try flow.codec.receive(frame, atMost: TunnelLimits.dataOctets)
    } catch {
      return engine.fail(TunnelGoodbye(.violation, "flow \(id): \(error)"))
    }
    move(flow)
  }

  /// Delivers what can be delivered, and says what is to be said.
  private func move(_ flow: LinkFlow) {
    do throws(CodecViolation) {
      while let bytes = try flow.codec.nextDelivery(ahead: max(TunnelLink.chunksAhead - (hub?.unconsumed(flow.id) ?? 0), 0)) {
        give(.data(bytes), to: flow.id)
      }
    } catch {
      return engine.fail(TunnelGoodbye(.violation, "flow \(flow.id): \(error)"))
    }
    if let context { writeFrames(of: flow, context) }
    countPins(of: flow)
    if flow.hasReceivedEnd, !flow.hasEnded, !flow.codec.hasUndelivered {
      flow.hasEnded = true
      flow.codec.stopReceiving()
      give(.end, to: flow.id)
    }
    forgetIfDone(flow)
  }

  /// The socket has taken octets: there may be room for chunks that wait.
  private func passedOn(_ id: FlowID) {
    guard let flow = flows[id], flow.codec.hasUndelivered else { return }
    move(flow)
    hub?.receiveComplete()
  }

  private func give(_ frame: FlowFrame, to id: FlowID) {
    do throws(FlowViolation) {
      try hub?.receive(frame, on: id)
    } catch {
      engine.fail(.flow(error))
    }
  }

  private func forgetIfDone(_ flow: LinkFlow) {
    if flow.isOver, flow.codec.pinnedOctets == 0 { forget(flow) }
  }

  /// The flow has been given up by either end: nothing is owed any more.
  func abandon(_ id: FlowID) {
    guard let flow = flows[id] else { return }
    flow.codec.abandon()
    countPins(of: flow)
    forget(flow)
  }

  private func forget(_ flow: LinkFlow) {
    guard flows[flow.id] === flow else { return }
    flows[flow.id] = nil
    flow.codec.onProgress = nil
    let figures = flow.codec.statistics
    ended += figures
    setup.logger.debug(
      "flow closed",
      metadata: [
        "flow.id": "\(flow.id)", "target": "\(flow.target)", "sent": "\(figures.plainSent)", "sent.wire": "\(figures.wireSent)",
        "received": "\(figures.plainReceived)", "received.wire": "\(figures.wireReceived)",
      ])
    if resting.remove(flow.id) != nil { hub?.reuseWithoutReset([flow.id]) }
  }

  /// Identifiers of flows that are over may be used again, but for those of which chunks may still be asked for.
  func releaseIdentifiers() {
    guard let hub, hub.hasChannelsToReset else { return }
    for id in hub.takeChannelsToReset() {
      if flows[id] == nil { hub.reuseWithoutReset([id]) } else { resting.insert(id) }
    }
  }
}

// MARK: The hub's transport

extension TunnelLink: FlowTransport {
  /// Never zero while the channel says it is writable: only then will it also say when it is writable again.
  var space: Int {
    guard let context, !isClosed, context.channel.isWritable else { return 0 }
    return max(TCPSocket.waterMarks.high - bufferedOctets, 1)
  }

  func transmit(_ frame: FlowFrame, on id: FlowID) {
    guard let context, !isClosed else { return }
    switch frame {
    case .open(let target, _):
      var terms = FlowTerms(outbound: coding, inbound: coding)
      if let opening {
        terms.priority = opening.priority
        terms.tenant = opening.tenant
        terms.source = opening.source
      }
      write(.flow(id, frame, terms: terms), context)
      terms.inbound = .plain  // until OPENED says
      makeFlow(id, target, terms)
    case .opened:
      let coding = flows[id]?.codec.outbound ?? .plain
      write(.flow(id, frame, terms: FlowTerms(outbound: coding, inbound: coding)), context)
    case .data(let plain):
      guard let flow = flows[id] else { return }
      send(plain, of: flow)
      writeFrames(of: flow, context)
      if flow.codec.heldOctets > 0 { hasSent.append(flow) }
    case .end:
      guard let flow = flows[id] else { return }
      flow.codec.endSending(cut: cut(for: flow))
      writeFrames(of: flow, context)
      write(.flow(id, frame, terms: .plain), context)
      flow.hasSentEnd = true
      countPins(of: flow)
      forgetIfDone(flow)
    case .reset, .refused:
      write(.flow(id, frame, terms: .plain), context)
      abandon(id)
    case .credit: write(.flow(id, frame, terms: .plain), context)
    }
  }

  /// CREDIT is for octets in whatever form; what goes in full, the peer keeps in memory while its receiver stands.
  func room(on id: FlowID) -> Int { flows[id]?.literals?.room ?? .max }

  func flush() {
    let now = TunnelLink.now()
    for flow in hasSent where flow.codec.heldOctets > 0 {
      guard flow.codec.isBulk(at: now, within: hold) else {
        release(flow)
        continue
      }
      if flow.heldSince == nil { holding.append(flow) }
      flow.heldSince = now
    }
    hasSent.removeAll(keepingCapacity: true)
    watchHolding()
    releaseIdentifiers()
    context?.flush()
  }

  private func send(_ plain: ByteBuffer, of flow: LinkFlow) {
    touch(flow)
    flow.codec.send(
      plain, cut: cut(for: flow), mayName: pinnedOctets < TunnelLink.maximumPinned, linkIsFull: hub?.isStarved == true,
      couldSend: flow.fillings == fillings, at: TunnelLink.now())
    flow.fillings = fillings
    noteLiterals(of: flow)
    countPins(of: flow)
  }

  func countPins(of flow: LinkFlow) {
    let pinned = flow.codec.pinnedOctets
    pinnedOctets += pinned - flow.countedPins
    flow.countedPins = pinned
  }

  /// The first octets of a flow and of a connection go out in frames that one segment holds each.
  private func cut(for flow: LinkFlow) -> Int {
    let isYoung = octetsWritten < TunnelLimits.youngConnectionOctets || flow.codec.statistics.plainSent < TunnelLimits.youngFlowOctets
    return isYoung ? TunnelLimits.youngDataOctets : TunnelLimits.dataOctets
  }

  func writeFrames(of flow: LinkFlow, _ context: ChannelHandlerContext) {
    while let frame = flow.codec.nextFrame() {
      switch frame {
      case .data(let payload): count(payload.readableBytes); write(.data, payload, of: flow.id, context)
      case .literal(let payload): count(payload.readableBytes); write(.literal, payload, of: flow.id, context)
      case .chunk(_, let bytes):
        count(bytes.readableBytes)
        write(.coded(flow.id, frame), context)
      case .reference(let references):
        count(references.count * CodedFrame.referenceOctets)
        write(.coded(flow.id, frame), context)
      case .missing, .resolved, .lane: write(.coded(flow.id, frame), context)
      }
    }
  }

  private func count(_ octets: Int) {
    octetsSinceDeal += octets
    group?.noteTraffic(octets)
  }
  func write(_ frame: TunnelFrame, _ context: ChannelHandlerContext) {
    var buffer = context.channel.allocator.buffer(capacity: 32)
    frame.write(into: &buffer)
    context.write(wrapOutboundOut(buffer), promise: nil)
  }

  func write(_ kind: TunnelFrame.Kind, _ payload: ByteBuffer, of id: FlowID, _ context: ChannelHandlerContext) {
    octetsWritten += payload.readableBytes
    if kind == .data, payload.readerIndex >= TunnelLimits.headerOctets {  // an encoder has left room for the header
      var whole = payload
      whole.moveReaderIndex(to: payload.readerIndex - TunnelLimits.headerOctets)
      var header = ByteBuffer()
      TunnelFrame.writeHeader(kind, flow: id, payload: payload.readableBytes, into: &header)
      whole.setBuffer(header, at: whole.readerIndex)
      context.write(wrapOutboundOut(whole), promise: nil)
      return
    }
    let copies = payload.readableBytes <= TunnelLink.copiedPayload
    var buffer = context.channel.allocator.buffer(capacity: TunnelLimits.headerOctets + (copies ? payload.readableBytes : 0))
    TunnelFrame.writeHeader(kind, flow: id, payload: payload.readableBytes, into: &buffer)
    if copies { buffer.writeImmutableBuffer(payload) }
    context.write(wrapOutboundOut(buffer), promise: nil)
    if !copies { context.write(wrapOutboundOut(payload), promise: nil) }
  }
}

// MARK: Flows that rest

extension TunnelLink {
  /// A flow that has said nothing for so long gives up what it keeps only to be better prepared: some 1 MB becomes some KB.
  static let idle = TimeSpan.seconds(Int64(30))

  func touch(_ flow: LinkFlow) {
    flow.lastActive = TunnelLink.now()
    flow.isResting = false
  }
}

// MARK: Octets that wait for the end of their chunk

extension TunnelLink {
  /// A flow that says little is never held back; what moves much waits so long at most.
  private var hold: TimeSpan {
    guard let roundTrip else { return TunnelLink.shortestHold }
    return min(max(TimeSpan.nanoseconds(roundTrip.nanoseconds / 16), TunnelLink.shortestHold), TunnelLink.longestHold)
  }

  /// What is held goes out in full.
  private func release(_ flow: LinkFlow) {
    guard let context, flows[flow.id] === flow else { return }
    flow.codec.flush(cut: cut(for: flow))
    writeFrames(of: flow, context)
  }

  /// With each PONG, so every 5 s: flows that say nothing need no memory for chunks, and those that have said nothing for long none for zstd.
  func restFlows() {
    guard let context else { return }
    let now = TunnelLink.now()
    for flow in flows.values where !flow.hasSentEnd {
      flow.codec.rest(cut: cut(for: flow))
      if !flow.isResting, now - flow.lastActive >= TunnelLink.idle {
        flow.isResting = true
        flow.codec.shrink()
      }
      writeFrames(of: flow, context)
      countPins(of: flow)
    }
    context.flush()
  }

  private func watchHolding() {
    guard holdTask == nil, !holding.isEmpty else { return }
    holdTask = loop.assumeIsolated().scheduleTask(in: .nanoseconds(hold.nanoseconds)) { [weak self] in self?.releaseHeld() }
  }

  private func releaseHeld() {
    holdTask = nil
    let now = TunnelLink.now()
    // While the channel is full nothing would leave sooner, and the rest of the chunk waits for the same room.
    let isFull = space == 0
    for flow in holding {
      if isFull, flow.codec.heldOctets > 0 { continue }
      guard flow.codec.heldOctets > 0, let since = flow.heldSince, now - since < hold else {
        if flow.codec.heldOctets > 0 { release(flow) }
        flow.heldSince = nil
        continue
      }
    }
    holding.removeAll { $0.heldSince == nil }
    context?.flush()
    watchHolding()
  }
}
