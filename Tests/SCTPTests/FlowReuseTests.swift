import Flows
import NIOCore
import SCTP
import Simulation
import Testing
import Vocabulary

/// A session without sockets: two flow tables over two associations, as `SessionDriver` joins them.
struct FlowDuo {
  var duo: Duo
  var a: FlowTable
  var z: FlowTable
  var waitingAtA: [(id: FlowID, frame: FlowFrame)] = []
  var waitingAtZ: [(id: FlowID, frame: FlowFrame)] = []
  var opened = 0
  var closed = 0

  init(_ duo: Duo, identifiers: ClosedRange<UInt32> = 0...65_534) {
    self.duo = duo
    let limits = FlowLimits(window: 100_000, earlyData: 10_000)
    a = FlowTable(role: .opener, limits: limits, identifiers: identifiers, identifiersRest: true)
    z = FlowTable(role: .acceptor, limits: limits, identifiers: identifiers, identifiersRest: true)
  }

  /// Carries frames and events until both ends are quiet at this moment.
  mutating func work() throws {
    var hasWorked: Bool
    repeat {
      duo.pump()
      hasWorked = !duo.effectsOfA.isEmpty || !duo.effectsOfZ.isEmpty
      let (atA, atZ) = (duo.effectsOfA, duo.effectsOfZ)
      duo.effectsOfA.removeAll(keepingCapacity: true)
      duo.effectsOfZ.removeAll(keepingCapacity: true)
      for effect in atA { try Self.take(effect, &a) }
      for effect in atZ { try Self.take(effect, &z) }
      while let event = a.nextEvent() { if case .closed = event { closed += 1 } else if case .refused = event { closed += 1 } }
      while let event = z.nextEvent() { answer(event) }
      if Self.hand(&a, &duo.a, &waitingAtA) { hasWorked = true }
      if duo.z != nil, Self.hand(&z, &duo.z!, &waitingAtZ) { hasWorked = true }
    } while hasWorked
  }

  private mutating func answer(_ event: FlowEvent) {
    switch event {
    case .incoming(let id, let target): if target.port == 1 { z.refuse(id, .notAllowed) } else { z.accept(id) }
    case .ended(let id): z.end(id)
    case .data(let id, let bytes): z.consumed(bytes.readableBytes, on: id)
    default: break
    }
  }

  private static func take(_ effect: Effect, _ table: inout FlowTable) throws {
    switch effect {
    case .deliver(let stream, let identifier, let payload):
      let kind = try #require(FlowFrame.Kind(rawValue: UInt8(identifier)))
      try table.receive(FlowFrame(kind: kind, body: payload), on: FlowID(UInt32(stream.value)))
    case .streamsReset(.outgoing, let streams): table.channelsReset(outgoing: streams.map { FlowID(UInt32($0.value)) })
    case .streamsReset(.incoming, let streams): try table.channelsReset(incoming: streams.map { FlowID(UInt32($0.value)) })
    case .failed(let error): Issue.record("\(error)")
    default: break
    }
  }

  private static func hand(
    _ table: inout FlowTable, _ association: inout TestAssociation, _ waiting: inout [(id: FlowID, frame: FlowFrame)]
  ) -> Bool {
    var hasWorked = false
    while let frame = table.nextFrame() {
      hasWorked = true
      waiting.append(frame)
    }
    // A frame waits when the answer to a reset was lost with its carrier, and the peer has gone on.
    let sent = waiting.prefix { send($0.frame, on: $0.id, association: &association) }.count
    waiting.removeFirst(sent)
    guard waiting.isEmpty, table.hasChannelsToReset, association.state == .established else { return hasWorked }
    let ids = table.takeChannelsToReset()
    if !association.resetStreams(ids.map { StreamID(UInt16($0.value)) }) { table.reuseWithoutReset(ids) }
    return true
  }

  private static func send(_ frame: FlowFrame, on id: FlowID, association: inout TestAssociation) -> Bool {
    var payload = ByteBuffer()
    frame.writeBody(into: &payload)
    if payload.readableBytes == 0 { payload.writeInteger(UInt8(0)) }
    return association.send(
      payload, stream: StreamID(UInt16(id.value)), protocolIdentifier: UInt32(frame.kind.rawValue), endOfWrite: false)
  }

  mutating func run(for span: TimeSpan) throws {
    let end = duo.network.now + span
    while duo.network.now < end {
      try work()
      duo.run(for: .milliseconds(5 as Int64))
    }
    try work()
  }
}

@Suite("Flows on streams that are used again")
struct FlowReuseTests {
  @Test("more than 200,000 flows follow one another in one session, 4,096 at a time, and nothing is left of them")
  func many() throws {
    var flows = FlowDuo(Duo.established(delay: .milliseconds(2 as Int64), rate: .megabitsPerSecond(10_000)))
    let target = FlowTarget(host: "vm", port: 21)
    while flows.opened < 205_000 {
      var ids: [FlowID] = []
      for _ in 0..<4_096 { ids.append(try flows.a.open(target)) }
      flows.opened += ids.count
      for id in ids {
        flows.a.send(ByteBuffer(repeating: 1, count: 20), on: id)
        flows.a.end(id)
      }
      try flows.run(for: .milliseconds(20 as Int64))
      flows.duo.trace.removeAll(keepingCapacity: true)
    }
    try flows.run(for: .seconds(1.0))
    #expect(flows.closed == flows.opened)
    #expect(flows.a.count == 0 && flows.z.count == 0)
    #expect(flows.a.freeIdentifiers == 65_535)
    #expect(flows.duo.a.streamsKept == 0 && flows.duo.z!.streamsKept == 0)
    #expect(flows.duo.a.unacknowledged == 0 && flows.duo.z!.unacknowledged == 0)
  }

  @Test("identifiers, streams and credit are all back after any flows, resets, moves and lost carriers", arguments: 0..<60)
  func random(seed: Int) throws {
    var random = SeededGenerator(seed: UInt64(seed))
    var flows = FlowDuo(
      Duo.established(seed: UInt64(seed), delay: .milliseconds(Int64.random(in: 0...60, using: &random))), identifiers: 0...39)
    var open: [FlowID] = []
    var active = CarrierID(1)
    for _ in 0..<Int.random(in: 100...300, using: &random) {
      switch Int.random(in: 0..<20, using: &random) {
      case 0...6:
        if let id = try? flows.a.open(FlowTarget(host: "vm", port: UInt16.random(in: 1...5, using: &random))) {
          flows.opened += 1
          open.append(id)
        }
      case 7...10:
        if let id = open.randomElement(using: &random) {
          let room = flows.a.sendable(id)
          if room > 0 { flows.a.send(ByteBuffer(repeating: 3, count: Int.random(in: 1...min(room, 30_000), using: &random)), on: id) }
        }
      case 11...13: if let id = open.randomElement(using: &random) { flows.a.end(id) }
      case 14: if let id = open.randomElement(using: &random) { flows.a.reset(id) }
      case 15: if let id = open.randomElement(using: &random), flows.z.sendable(id) > 0 { flows.z.reset(id) }
      case 16: flows.duo.blackHole(active)
      case 17: flows.duo.cut(active)
      case 18:
        active = flows.duo.dial(delay: .milliseconds(Int64.random(in: 0...60, using: &random)))
        flows.duo.move(to: active)
      default: flows.duo.network.jump(by: .milliseconds(Int64.random(in: 0...5_000, using: &random)))
      }
      try flows.run(for: .milliseconds(Int64.random(in: 0...40, using: &random)))
      open.removeAll { !flows.a.contains($0) }
    }
    active = flows.duo.dial()
    flows.duo.move(to: active)
    try flows.run(for: .seconds(2.0))
    for id in open where flows.a.contains(id) { if Bool.random(using: &random) { flows.a.end(id) } else { flows.a.reset(id) } }
    try flows.run(for: .seconds(5.0))
    #expect(flows.closed == flows.opened && flows.opened > 20, "seed \(seed)")
    #expect(flows.a.count == 0 && flows.z.count == 0, "seed \(seed)")
    #expect(flows.a.freeIdentifiers == 40, "seed \(seed)")
    #expect(flows.duo.a.streamsKept == 0 && flows.duo.z!.streamsKept == 0, "seed \(seed)")
    #expect(flows.duo.a.unacknowledged == 0 && flows.duo.z!.unacknowledged == 0, "seed \(seed)")
  }

  @Test("with a peer that cannot reset streams, identifiers are used again as they are")
  func older() throws {
    var old = Duo.configuration()
    old.features.streamReset = false
    var flows = FlowDuo(Duo.established(z: old), identifiers: 0...3)
    for _ in 0..<50 {
      let id = try flows.a.open(FlowTarget(host: "vm", port: 21))
      flows.a.end(id)
      try flows.run(for: .milliseconds(30 as Int64))
    }
    #expect(flows.closed == 50 && flows.a.freeIdentifiers == 4)
  }
}
