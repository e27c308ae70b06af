import NIOCore
import Tunnel
import Vocabulary

/// A dialler and an acceptor joined by two queues of octets, and a clock that the test moves.
struct Duo {
  var a: TunnelConnection
  var z: TunnelConnection
  var now = Instant(nanoseconds: 1_000_000_000)
  /// What each end did or learned, apart from what it sent.
  var atA: [TunnelEffect] = []
  var atZ: [TunnelEffect] = []
  /// Everything that was sent, as it was sent.
  var fromA: [ByteBuffer] = []
  var fromZ: [ByteBuffer] = []
  private var toA: [ByteBuffer] = []
  private var toZ: [ByteBuffer] = []
  /// What comes of each octet sent; the wire of a middle man.
  var tamper: @Sendable (ByteBuffer) -> ByteBuffer = { $0 }

  static func hello(_ node: NodeID, _ peer: NodeID = "", version: UInt8 = TunnelLimits.version, nonce: UInt8) -> TunnelHello {
    TunnelHello(version: version, node: node, peer: peer, maximumFlows: 16, nonce: [UInt8](repeating: nonce, count: 32))
  }

  /// A stand-in for HMAC: enough to tell keys and transcripts apart.
  static func prover(_ key: UInt64) -> TunnelProver {
    @Sendable func proof(_ transcript: [UInt8]) -> [UInt8] {
      var state = key
      for octet in transcript { state = (state ^ UInt64(octet)) &* 0x0000_0100_0000_01b3 }
      var random = SeededGenerator(seed: state)
      return (0..<32).map { _ in UInt8.random(in: 0...255, using: &random) }
    }
    return TunnelProver(proof: proof, verify: { $0 == proof($1) })
  }

  init(
    keyA: UInt64 = 1, keyZ: UInt64 = 1, helloA: TunnelHello = Duo.hello("a", "z", nonce: 1), helloZ: TunnelHello = Duo.hello("z", nonce: 2)
  ) {
    a = TunnelConnection(role: .dialler, hello: helloA, prover: Duo.prover(keyA), at: now)
    z = TunnelConnection(role: .acceptor, hello: helloZ, prover: Duo.prover(keyZ), at: now)
  }

  mutating func collect() {
    while let effect = a.nextEffect() {
      if case .send(let bytes) = effect { fromA.append(bytes); toZ.append(tamper(bytes)) } else { atA.append(effect) }
    }
    while let effect = z.nextEffect() {
      if case .send(let bytes) = effect { fromZ.append(bytes); toA.append(tamper(bytes)) } else { atZ.append(effect) }
    }
  }

  /// Carries everything that is said until both are quiet.
  mutating func settle() {
    collect()
    while !toA.isEmpty || !toZ.isEmpty {
      if !toZ.isEmpty { z.receive(toZ.removeFirst(), at: now) }
      if !toA.isEmpty { a.receive(toA.removeFirst(), at: now) }
      collect()
    }
  }

  mutating func advance(_ span: TimeSpan) {
    now = now + span
    if let deadline = a.deadline, deadline <= now { a.handleDeadline(at: now) }
    if let deadline = z.deadline, deadline <= now { z.handleDeadline(at: now) }
  }

  static func closure(_ effects: [TunnelEffect]) -> TunnelClosure? {
    for case .close(let closure) in effects { return closure }
    return nil
  }
}
