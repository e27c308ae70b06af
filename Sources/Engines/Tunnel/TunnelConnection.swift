import Dedup
import DequeModule
import Flows
import NIOCore
import Vocabulary

/// How an end proves that it has the key; the HMAC is handed in.
package struct TunnelProver: Sendable {
  package var proof: @Sendable (_ transcript: [UInt8]) -> [UInt8]
  package var verify: @Sendable (_ proof: [UInt8], _ transcript: [UInt8]) -> Bool
  /// At the acceptor: why a caller of this name is turned away, where the channel knows it by another; nil if it is not.
  package var refusal: @Sendable (_ node: NodeID) -> TunnelGoodbye? = { _ in nil }

  package init(
    proof: @escaping @Sendable (_ transcript: [UInt8]) -> [UInt8],
    verify: @escaping @Sendable (_ proof: [UInt8], _ transcript: [UInt8]) -> Bool
  ) {
    self.proof = proof
    self.verify = verify
  }
}

/// What the owner of a `TunnelConnection` has to do or to know.
package enum TunnelEffect: Sendable {
  case send(ByteBuffer)
  /// Both ends have proved the key: flows may be opened (by the dialler) and accepted.
  case established(TunnelHello)
  case flow(FlowID, FlowFrame, terms: FlowTerms)
  case coded(FlowID, CodedFrame)
  case roundTrip(TimeSpan)
  /// The peer asks that this end opens its sending direction.
  case warm(WarmRequest)
  /// The peer opens no flows here any more, and wants none.
  case leaving
  /// The peer tells what a third one's store has.
  case have(PeerBelief)
  /// Nothing follows; close the connection once what was sent is out.
  case close(TunnelClosure)
}

/// How a connection ended.
package enum TunnelClosure: Sendable, Hashable, CustomStringConvertible {
  /// This end said goodbye.
  case here(TunnelGoodbye)
  /// The peer did.
  case peer(TunnelGoodbye)

  package var goodbye: TunnelGoodbye {
    switch self {
    case .here(let goodbye), .peer(let goodbye): goodbye
    }
  }

  package var description: String {
    switch self {
    case .here(let goodbye): goodbye.text
    case .peer(let goodbye): "the peer says: \(goodbye.text)"
    }
  }
}

/// One end of a tunnel connection: the handshake that proves the key, frames in and out, and the watch over a peer that falls silent.
///
/// Flows are not here: what it reads of them goes to the owner, who has their table (`FlowTable`) and their codecs. See the folder's README.
package struct TunnelConnection: Sendable {
  package enum Role: Sendable, Hashable {
    /// This end made the TCP connection; it opens the flows.
    case dialler
    case acceptor
  }

  private enum State: Sendable {
    case awaitingHello(until: Instant)
    case awaitingProof(TunnelHello, until: Instant)
    case established(Liveness)
    case closed
  }

  private struct Liveness: Sendable {
    var lastHeard: Instant
    var nextPing: Instant
    var token: UInt64 = 0
    /// The PING that is under way.
    var pinged: (token: UInt64, at: Instant)?
  }

  package let role: Role
  private let hello: TunnelHello
  private let prover: TunnelProver
  private var state: State
  private var decoder = TunnelFrameDecoder()
  private var effects: Deque<TunnelEffect> = []

  /// - Parameter hello: the dialler names the peer it means, the acceptor leaves it empty. The nonce must be fresh random octets.
  package init(role: Role, hello: TunnelHello, prover: TunnelProver, at now: Instant) {
    self.role = role
    self.hello = hello
    self.prover = prover
    state = .awaitingHello(until: now + TunnelLimits.handshake)
    // The acceptor says nothing, not even its name, before a caller has shown that it speaks this protocol.
    if role == .dialler { send(.hello(hello)) }
  }
}

// MARK: Ask it

extension TunnelConnection {
  package var isEstablished: Bool {
    if case .established = state { return true }
    return false
  }

  /// When `handleDeadline` wants to be called next.
  package var deadline: Instant? {
    switch state {
    case .awaitingHello(let until), .awaitingProof(_, let until): until
    case .established(let liveness): liveness.nextPing
    case .closed: nil
    }
  }

  package mutating func nextEffect() -> TunnelEffect? { effects.popFirst() }
}

// MARK: Tell it

extension TunnelConnection {
  package mutating func receive(_ bytes: ByteBuffer, at now: Instant) {
    if case .closed = state { return }
    decoder.append(bytes)
    if case .established(var liveness) = state {
      liveness.lastHeard = now
      state = .established(liveness)
    }
    do throws(TunnelViolation) {
      while let frame = try decoder.next() {
        try receive(frame, at: now)
        if case .closed = state { return }
      }
    } catch {
      fail(error)
    }
  }

  /// The peer broke the protocol in a way that only the owner could see (flows, codecs).
  package mutating func fail(_ violation: TunnelViolation) { fail(TunnelGoodbye(.violation, "protocol violation: \(violation)")) }

  package mutating func fail(_ goodbye: TunnelGoodbye) {
    if case .closed = state { return }
    // Whoever has shown nothing of this protocol gets no answer in it.
    var speaks = role == .dialler
    if case .awaitingHello = state {} else { speaks = true }
    if speaks || goodbye.code == .version || goodbye.code == .wrongPeer { send(.goodbye(goodbye)) }
    state = .closed
    effects.append(.close(.here(goodbye)))
  }

  package mutating func handleDeadline(at now: Instant) {
    switch state {
    case .awaitingHello(let until), .awaitingProof(_, let until):
      if now >= until { fail(TunnelGoodbye(.tooSlow, "no handshake within \(Int(TunnelLimits.handshake.seconds)) s")) }
    case .established(var liveness):
      guard now >= liveness.nextPing else { return }
      guard now - liveness.lastHeard < TunnelLimits.silence else {
        return fail(TunnelGoodbye(.silent, "nothing has come for \(Int(TunnelLimits.silence.seconds)) s"))
      }
      liveness.token += 1
      liveness.pinged = (liveness.token, now)
      liveness.nextPing = now + TunnelLimits.pingInterval
      state = .established(liveness)
      send(.ping(liveness.token))
    case .closed: return
    }
  }

  /// Queues a frame that is not bulk data. Precondition: established.
  package mutating func send(_ frame: TunnelFrame) {
    var buffer = ByteBufferAllocator().buffer(capacity: 64)
    frame.write(into: &buffer)
    effects.append(.send(buffer))
  }
}

// MARK: What the peer says

extension TunnelConnection {
  private mutating func receive(_ frame: TunnelFrame, at now: Instant) throws(TunnelViolation) {
    if case .goodbye(let goodbye) = frame {
      state = .closed
      effects.append(.close(.peer(goodbye)))
      return
    }
    switch state {
    case .awaitingHello(let until): try receiveHello(frame, until: until)
    case .awaitingProof(let theirs, _): try receiveProof(frame, theirs, at: now)
    case .established(let liveness): try receiveEstablished(frame, liveness, at: now)
    case .closed: return
    }
  }

  private mutating func receiveHello(_ frame: TunnelFrame, until: Instant) throws(TunnelViolation) {
    guard case .hello(let theirs) = frame else { throw .outOfTurn(frame.kind) }
    guard theirs.version == TunnelLimits.version else {
      return fail(
        TunnelGoodbye(
          .version, "version \(theirs.version) of the tunnel meets version \(TunnelLimits.version); install the same on both ends"))
    }
    switch role {
    case .dialler:
      guard theirs.node == hello.peer else {
        return fail(TunnelGoodbye(.wrongPeer, "\(hello.node) looks for \(hello.peer) here, but this is \(theirs.node)"))
      }
      state = .awaitingProof(theirs, until: until)
    case .acceptor:
      guard theirs.peer == hello.node else {
        return fail(TunnelGoodbye(.wrongPeer, "\(theirs.node) looks for \(theirs.peer) here, but this is \(hello.node)"))
      }
      if let goodbye = prover.refusal(theirs.node) { return fail(goodbye) }
      state = .awaitingProof(theirs, until: until)
      send(.hello(hello))
      send(.proof(prover.proof(transcript(of: .acceptor, dialler: theirs, acceptor: hello))))
    }
  }

  private mutating func receiveProof(_ frame: TunnelFrame, _ theirs: TunnelHello, at now: Instant) throws(TunnelViolation) {
    guard case .proof(let proof) = frame else { throw .outOfTurn(frame.kind) }
    let (dialler, acceptor) = role == .dialler ? (hello, theirs) : (theirs, hello)
    let peerRole = role == .dialler ? Role.acceptor : .dialler
    guard prover.verify(proof, transcript(of: peerRole, dialler: dialler, acceptor: acceptor)) else {
      return fail(TunnelGoodbye(.wrongKey, "\(dialler.node) and \(acceptor.node) have different keys; give both the same --key-file"))
    }
    if role == .dialler { send(.proof(prover.proof(transcript(of: .dialler, dialler: dialler, acceptor: acceptor)))) }
    state = .established(Liveness(lastHeard: now, nextPing: now))  // the first PING at once: it tells the round trip
    effects.append(.established(theirs))
  }

  private mutating func receiveEstablished(_ frame: TunnelFrame, _ liveness: Liveness, at now: Instant) throws(TunnelViolation) {
    switch frame {
    case .flow(let id, let frame, let terms): effects.append(.flow(id, frame, terms: terms))
    case .coded(let id, let frame): effects.append(.coded(id, frame))
    case .ping(let token): send(.pong(token))
    case .pong(let token):
      guard let pinged = liveness.pinged, pinged.token == token else { return }  // an answer to an older one
      var liveness = liveness
      liveness.pinged = nil
      state = .established(liveness)
      effects.append(.roundTrip(now - pinged.at))
    case .pad: return
    case .warm(let request): effects.append(.warm(request))
    case .have(let have): effects.append(.have(have))
    case .leaving: effects.append(.leaving)
    case .hello, .proof, .goodbye: throw .outOfTurn(frame.kind)
    }
  }

  /// What a proof covers: who proves, and all that both have said. A proof thus fits one connection and one direction, and cannot be sent back.
  private func transcript(of prover: Role, dialler: TunnelHello, acceptor: TunnelHello) -> [UInt8] {
    var buffer = ByteBuffer(string: prover == .dialler ? "longhaul tunnel 2 dialler\n" : "longhaul tunnel 2 acceptor\n")
    dialler.write(into: &buffer)
    acceptor.write(into: &buffer)
    return Array(buffer.readableBytesView)
  }
}
