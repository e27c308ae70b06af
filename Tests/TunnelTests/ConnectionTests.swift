import Flows
import NIOCore
import Testing
import Tunnel
import Vocabulary

@Suite("A tunnel connection")
struct ConnectionTests {
  @Test("stands once both ends have proved the key, and each knows the other's name")
  func handshake() {
    var duo = Duo()
    duo.settle()
    #expect(duo.a.isEstablished && duo.z.isEstablished)
    let names = (duo.atA + duo.atZ).compactMap { effect -> NodeID? in
      if case .established(let hello) = effect { return hello.node }
      return nil
    }
    #expect(names == ["z", "a"])
  }

  @Test("is silent at the acceptor until a caller has said HELLO")
  func silentAcceptor() {
    var acceptor = TunnelConnection(role: .acceptor, hello: Duo.hello("z", nonce: 1), prover: Duo.prover(1), at: .zero)
    #expect(acceptor.nextEffect() == nil)
    acceptor.receive(ByteBuffer(string: "GET / HTTP/1.1\r\n\r\n"), at: .zero)
    guard case .close(.here(let goodbye)) = acceptor.nextEffect() else {
      Issue.record("a stranger was answered")
      return
    }
    #expect(goodbye.code == .violation)
    #expect(acceptor.nextEffect() == nil)
  }

  @Test("is refused to an end with another key, and both ends are told what to do")
  func wrongKey() {
    var duo = Duo(keyA: 1, keyZ: 2)
    duo.settle()
    #expect(!duo.a.isEstablished && !duo.z.isEstablished)
    #expect(Duo.closure(duo.atA)?.goodbye.code == .wrongKey)
    #expect(Duo.closure(duo.atZ) == .peer(TunnelGoodbye(.wrongKey, "a and z have different keys; give both the same --key-file")))
  }

  @Test("is refused to a dialler that has no key but copies the acceptor's proof back")
  func reflectedProof() {
    var acceptor = TunnelConnection(role: .acceptor, hello: Duo.hello("z", nonce: 2), prover: Duo.prover(1), at: .zero)
    acceptor.receive(FrameTests.encoded([.hello(Duo.hello("a", "z", nonce: 1))]), at: .zero)
    var decoder = TunnelFrameDecoder()
    var proof: [UInt8] = []
    while case .send(let bytes) = acceptor.nextEffect() {
      decoder.append(bytes)
      while let frame = try? decoder.next() { if case .proof(let octets) = frame { proof = octets } }
    }
    #expect(proof.count == 32)
    acceptor.receive(FrameTests.encoded([.proof(proof)]), at: .zero)
    #expect(!acceptor.isEstablished)
  }

  @Test("is refused to a recording of an earlier one")
  func replayedProof() {
    var first = Duo()
    first.settle()
    #expect(first.z.isEstablished)
    var acceptor = TunnelConnection(role: .acceptor, hello: Duo.hello("z", nonce: 3), prover: Duo.prover(1), at: .zero)
    for bytes in first.fromA { acceptor.receive(bytes, at: .zero) }
    var effects: [TunnelEffect] = []
    while let effect = acceptor.nextEffect() { effects.append(effect) }
    #expect(!acceptor.isEstablished)
    #expect(Duo.closure(effects)?.goodbye.code == .wrongKey)
  }

  @Test("between different versions is refused, and each end names both")
  func versions() {
    var duo = Duo(helloA: Duo.hello("a", "z", version: 9, nonce: 1))
    duo.settle()
    #expect(
      Duo.closure(duo.atZ) == .here(TunnelGoodbye(.version, "version 9 of the tunnel meets version 2; install the same on both ends")))
    #expect(Duo.closure(duo.atA)?.goodbye.code == .version)
  }

  @Test("to the wrong node is refused, and both ends are told who is who")
  func wrongPeer() {
    var duo = Duo(helloA: Duo.hello("a", "y", nonce: 1))
    duo.settle()
    #expect(Duo.closure(duo.atZ) == .here(TunnelGoodbye(.wrongPeer, "a looks for y here, but this is z")))
    #expect(Duo.closure(duo.atA) == .peer(TunnelGoodbye(.wrongPeer, "a looks for y here, but this is z")))
  }

  @Test("with any octet of the handshake changed does not stand", arguments: UInt64(1)...60)
  func tampered(seed: UInt64) {
    var duo = Duo()
    duo.tamper = { bytes in
      var random = SeededGenerator(seed: seed)
      var changed = Array(bytes.readableBytesView)
      changed[Int.random(in: 0..<changed.count, using: &random)] ^= 1 << UInt8.random(in: 0...7, using: &random)
      return ByteBuffer(bytes: changed)
    }
    for _ in 0..<4 {
      duo.settle()
      duo.advance(.seconds(Int64(4)))
    }
    #expect(!duo.z.isEstablished, "seed \(seed)")
  }

  @Test("whose handshake does not end in time is given up by both ends")
  func slowHandshake() {
    var duo = Duo()
    duo.collect()  // HELLO is under way for ever
    duo.advance(.milliseconds(Int64(9_999)))
    duo.collect()
    #expect(Duo.closure(duo.atA) == nil && Duo.closure(duo.atZ) == nil)
    duo.advance(.milliseconds(Int64(1)))
    duo.collect()
    #expect(Duo.closure(duo.atA)?.goodbye.code == .tooSlow)
    #expect(Duo.closure(duo.atZ)?.goodbye.code == .tooSlow)
    #expect(duo.a.deadline == nil && duo.z.deadline == nil)
  }

  @Test("measures its round trip, and stays up as long as PINGs are answered")
  func pings() {
    var duo = Duo()
    duo.settle()
    for _ in 0..<20 {
      duo.advance(TunnelLimits.pingInterval)
      duo.settle()
    }
    #expect(duo.a.isEstablished && duo.z.isEstablished)
    #expect(duo.atA.contains { if case .roundTrip = $0 { true } else { false } })
  }

  @Test("on which nothing comes any more is given up")
  func silence() {
    var duo = Duo()
    duo.settle()
    for _ in 0..<4 {  // PINGs go out and are lost
      duo.advance(TunnelLimits.pingInterval)
      duo.collect()
    }
    #expect(Duo.closure(duo.atA)?.goodbye.code == .silent)
    #expect(Duo.closure(duo.atZ)?.goodbye.code == .silent)
  }

  @Test("ends when a frame of the handshake comes out of turn")
  func outOfTurn() {
    var duo = Duo()
    duo.settle()
    duo.z.receive(FrameTests.encoded([.proof([UInt8](repeating: 0, count: 32))]), at: duo.now)
    duo.settle()
    #expect(Duo.closure(duo.atZ)?.goodbye.code == .violation)
    #expect(Duo.closure(duo.atA)?.goodbye == TunnelGoodbye(.violation, "protocol violation: proof out of turn"))
  }

  @Test("takes no flow before the proof")
  func flowBeforeProof() {
    var acceptor = TunnelConnection(role: .acceptor, hello: Duo.hello("z", nonce: 2), prover: Duo.prover(1), at: .zero)
    let open = TunnelFrame.flow(FlowID(1), .open(FlowTarget(host: "h", port: 1), window: 1), terms: .plain)
    acceptor.receive(FrameTests.encoded([.hello(Duo.hello("a", "z", nonce: 1)), open]), at: .zero)
    var effects: [TunnelEffect] = []
    while let effect = acceptor.nextEffect() { effects.append(effect) }
    #expect(!effects.contains { if case .flow = $0 { true } else { false } })
    #expect(Duo.closure(effects)?.goodbye.code == .violation)
  }

  @Test("says nothing more, and hears nothing more, once it has closed")
  func closed() {
    var duo = Duo()
    duo.settle()
    duo.a.fail(TunnelGoodbye(.stopping, "a is being stopped"))
    duo.settle()
    #expect(Duo.closure(duo.atZ) == .peer(TunnelGoodbye(.stopping, "a is being stopped")))
    duo.a.receive(FrameTests.encoded([.ping(1)]), at: duo.now)
    duo.a.handleDeadline(at: duo.now + .seconds(Int64(100)))
    #expect(duo.a.nextEffect() == nil)
  }
}
