import Dedup
import Flows
import NIOCore
import Tunnel
import Vocabulary

/// One end of a tunnel connection against octets in pieces of any length: its frames, its handshake, and the flow table behind it.
package enum TunnelTarget {
  package static func run(_ bytes: [UInt8]) {
    var script = Script(bytes)
    let isDialler = script.flag()
    var now = Instant(nanoseconds: 1_000_000_000)
    let nonce = [UInt8](repeating: 7, count: TunnelLimits.nonceOctets)
    let prover = TunnelProver(proof: { _ in nonce }, verify: { _, _ in true })
    var connection = TunnelConnection(
      role: isDialler ? .dialler : .acceptor,
      hello: TunnelHello(node: "here", peer: isDialler ? "there" : "", maximumFlows: 10, nonce: nonce), prover: prover, at: now)
    var table = FlowTable(
      role: isDialler ? .opener : .acceptor, limits: FlowLimits(window: 4_096, earlyData: 512, maximumFlows: 6), identifiers: 0...9)
    let hello = TunnelFrame.hello(TunnelHello(node: "there", peer: isDialler ? "" : "here", maximumFlows: 10, nonce: nonce))
    var stream = ByteBuffer()
    if script.flag() { for frame in [hello, .proof(nonce)] { frame.write(into: &stream) } }
    var steps = 0
    while !script.isOver, steps < 300 {
      steps += 1
      switch script.below(8) {
      case 0...3: frame(&script, nonce).write(into: &stream)
      case 4:
        stream.writeInteger(script.byte() % 26)
        stream.writeInteger(UInt8(0))
        stream.writeInteger(UInt16(script.byte()))
        stream.writeInteger(UInt32(script.byte() % 12))
        stream.writeBytes(script.octets(atMost: 64))
      case 5: stream.writeBytes(script.octets(atMost: 40))
      case 6: now = now + .milliseconds(Int64(script.half()))
      default: if isDialler { _ = try? table.open(Flows.FlowTarget(host: "vm", port: 1)) }
      }
      if let piece = stream.readSlice(length: min(script.size(), stream.readableBytes)) { connection.receive(piece, at: now) }
      if let deadline = connection.deadline, deadline <= now { connection.handleDeadline(at: now) }
      drain(&connection, &table)
    }
  }

  private static func drain(_ connection: inout TunnelConnection, _ table: inout FlowTable) {
    var effects = 0
    while let effect = connection.nextEffect() {
      effects += 1
      demand(effects < 20_000, "the connection never stops")
      let (id, frame): (FlowID, FlowFrame)
      switch effect {
      case .flow(let flow, let said, _): (id, frame) = (flow, said)
      case .coded(let flow, .data(let bytes)), .coded(let flow, .literal(let bytes)): (id, frame) = (flow, .data(bytes))
      default: continue
      }
      do { try table.receive(frame, on: id) } catch { connection.fail(.flow(error)) }
    }
    while let event = table.nextEvent() { if case .incoming(let id, _) = event { table.accept(id) } }
    while table.nextFrame() != nil {}
  }

  private static func frame(_ script: inout Script, _ nonce: [UInt8]) -> TunnelFrame {
    let id = FlowID(UInt32(script.byte() % 12))
    let terms = FlowTerms(
      outbound: script.flag() ? .zstd : .plain, inbound: script.flag() ? .cached : .plain,
      source: script.flag() ? Endpoint("10.0.0.1:9") : nil)
    switch script.below(18) {
    case 0, 1: return .flow(id, .open(Flows.FlowTarget(host: "vm", port: 80), window: UInt32(script.half())), terms: terms)
    case 2: return .flow(id, .opened(window: script.word()), terms: terms)
    case 3: return .flow(id, .refused(.failed), terms: .plain)
    case 4: return .coded(id, .data(ByteBuffer(repeating: 3, count: min(script.size(), TunnelLimits.dataOctets))))
    case 5: return .flow(id, .credit(script.word()), terms: .plain)
    case 6: return .flow(id, .end, terms: .plain)
    case 7: return .flow(id, .reset, terms: .plain)
    case 8: return .coded(id, .literal(ByteBuffer(repeating: 3, count: min(script.size(), TunnelLimits.dataOctets))))
    case 9: return .ping(UInt64(script.byte()))
    case 10: return .pong(UInt64(script.byte() % 4))
    case 11: return .pad(min(script.size(), TunnelLimits.dataOctets))
    case 12: return .proof(nonce)
    case 13:
      return .coded(
        id, .reference([ChunkReference(name: ChunkName(high: 1, middle: 2, low: script.word()), octets: 1 + script.size() % 32_768)]))
    case 14: return .coded(id, .missing([script.word()]))
    case 15: return .coded(id, .chunk(script.word(), ByteBuffer(repeating: 3, count: 1 + script.size() % 32_768)))
    case 16: return .coded(id, script.flag() ? .resolved(script.word()) : .lane(UInt16(script.byte())))
    default: return .goodbye(TunnelGoodbye(.stopping, "bye"))
    }
  }
}
