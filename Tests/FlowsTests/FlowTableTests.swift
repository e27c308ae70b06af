import Flows
import NIOCore
import Testing
import Vocabulary

/// Two tables joined by two queues that keep order, as a session's streams and a tunnel's connection do.
struct Pair {
  var a: FlowTable
  var z: FlowTable
  var toA: [(FlowID, FlowFrame)] = []
  var toZ: [(FlowID, FlowFrame)] = []

  init(window: Int = 1000, earlyData: Int = 100, maximumFlows: Int = 4, identifiers: ClosedRange<UInt32> = 0...7) {
    let limits = FlowLimits(window: window, earlyData: earlyData, maximumFlows: maximumFlows)
    a = FlowTable(role: .opener, limits: limits, identifiers: identifiers)
    z = FlowTable(role: .acceptor, limits: limits, identifiers: identifiers)
  }

  mutating func collect() {
    while let (id, frame) = a.nextFrame() { toZ.append((id, frame)) }
    while let (id, frame) = z.nextFrame() { toA.append((id, frame)) }
  }

  /// Carries everything that is said until both are quiet.
  mutating func settle() throws {
    collect()
    while !toA.isEmpty || !toZ.isEmpty {
      if !toZ.isEmpty {
        let (id, frame) = toZ.removeFirst()
        try z.receive(frame, on: id)
      }
      if !toA.isEmpty {
        let (id, frame) = toA.removeFirst()
        try a.receive(frame, on: id)
      }
      collect()
    }
  }

  /// A flow that both ends have agreed on, with the events read away.
  mutating func established() throws -> FlowID {
    let id = try a.open(FlowTarget(host: "vm", port: 21))
    try settle()
    z.accept(id)
    try settle()
    _ = drain(&a)
    _ = drain(&z)
    return id
  }
}

func drain(_ table: inout FlowTable) -> [FlowEvent] {
  var events: [FlowEvent] = []
  while let event = table.nextEvent() { events.append(event) }
  return events
}

func octets(_ count: Int) -> ByteBuffer { ByteBuffer(repeating: 7, count: count) }

@Suite("A flow table")
struct FlowTableTests {
  @Test("opens a flow when the acceptor accepts it")
  func opens() throws {
    var pair = Pair()
    let id = try pair.a.open(FlowTarget(host: "vm", port: 21))
    try pair.settle()
    #expect(drain(&pair.z) == [.incoming(id, FlowTarget(host: "vm", port: 21))])
    pair.z.accept(id)
    try pair.settle()
    #expect(drain(&pair.a) == [.opened(id)])
    #expect(pair.a.sendable(id) == 1000 && pair.z.sendable(id) == 1000)
  }

  @Test("lets early data through before the answer, and counts it against the window")
  func earlyData() throws {
    var pair = Pair()
    let id = try pair.a.open(FlowTarget(host: "vm", port: 21))
    #expect(pair.a.sendable(id) == 100)
    pair.a.send(octets(100), on: id)
    #expect(pair.a.sendable(id) == 0)
    try pair.settle()
    #expect(drain(&pair.z) == [.incoming(id, FlowTarget(host: "vm", port: 21)), .data(id, octets(100))])
    pair.z.accept(id)
    try pair.settle()
    #expect(pair.a.sendable(id) == 900)
    #expect(drain(&pair.a) == [.opened(id), .writable(id)])
  }

  @Test("takes no more than early data before the answer, whatever its window will be")
  func tooEarly() throws {
    var pair = Pair()
    let id = try pair.a.open(FlowTarget(host: "vm", port: 21))
    try pair.settle()
    try pair.z.receive(.data(octets(100)), on: id)
    #expect(throws: FlowViolation.moreDataThanCredit(id)) { try pair.z.receive(.data(octets(1)), on: id) }
    pair.z.accept(id)
    try pair.z.receive(.data(octets(900)), on: id)
    #expect(throws: FlowViolation.moreDataThanCredit(id)) { try pair.z.receive(.data(octets(1)), on: id) }
  }

  @Test("reports a refusal with its reason and frees the identifier")
  func refusal() throws {
    var pair = Pair(identifiers: 3...3)
    let id = try pair.a.open(FlowTarget(host: "vm", port: 1))
    #expect(throws: FlowRefusal.tooManyFlows) { try pair.a.open(FlowTarget(host: "vm", port: 2)) }
    try pair.settle()
    pair.z.refuse(id, .connectionRefused)
    try pair.settle()
    #expect(drain(&pair.a) == [.refused(id, .connectionRefused)])
    #expect(try pair.a.open(FlowTarget(host: "vm", port: 3)) == id)
  }

  @Test("gives credit back after an eighth of a window, and no sooner")
  func credit() throws {
    var pair = Pair()
    let id = try pair.established()
    pair.a.send(octets(1000), on: id)
    try pair.settle()
    #expect(pair.a.sendable(id) == 0)
    pair.z.consumed(124, on: id)
    try pair.settle()
    #expect(pair.a.sendable(id) == 0)
    pair.z.consumed(1, on: id)
    try pair.settle()
    #expect(pair.a.sendable(id) == 125)
    #expect(drain(&pair.a) == [.writable(id)])
  }

  @Test("has windows of their own for flows that want another than the usual one")
  func ownWindows() throws {
    var pair = Pair(window: 1000, earlyData: 100)
    let id = try pair.a.open(FlowTarget(host: "vm", port: 21), window: 400)
    try pair.settle()
    pair.z.accept(id, window: 200)
    try pair.settle()
    #expect(pair.a.sendable(id) == 200)
    #expect(pair.z.sendable(id) == 400)
    pair.a.send(octets(200), on: id)
    try pair.settle()
    pair.z.consumed(24, on: id)
    try pair.settle()
    #expect(pair.a.sendable(id) == 0)
    pair.z.consumed(1, on: id)  // an eighth of its own window
    try pair.settle()
    #expect(pair.a.sendable(id) == 25)
    // A flow after it has the usual one again, and none has less than early data may take.
    let next = try pair.a.open(FlowTarget(host: "vm", port: 21), window: 1)
    try pair.settle()
    pair.z.accept(next)
    try pair.settle()
    #expect(pair.a.sendable(next) == 1000)
    #expect(pair.z.sendable(next) == 100)
  }

  @Test("keeps the other direction open after an END")
  func halfClose() throws {
    var pair = Pair()
    let id = try pair.established()
    pair.a.end(id)
    try pair.settle()
    #expect(drain(&pair.z) == [.ended(id)])
    pair.z.send(octets(10), on: id)
    pair.z.end(id)
    try pair.settle()
    #expect(drain(&pair.a) == [.data(id, octets(10)), .ended(id), .closed(id)])
    #expect(drain(&pair.z) == [.closed(id)])
    #expect(pair.a.count == 0 && pair.z.count == 0)
  }

  @Test("closes both sides after a RESET of either")
  func reset() throws {
    var pair = Pair()
    let id = try pair.established()
    pair.z.reset(id)
    try pair.settle()
    #expect(drain(&pair.a) == [.reset(id), .closed(id)])
    #expect(drain(&pair.z) == [.closed(id)])
  }

  @Test("does not mistake words about an old flow for the new one with its identifier")
  func reuse() throws {
    var pair = Pair(identifiers: 3...3)
    let id = try pair.established()
    pair.z.end(id)
    try pair.settle()
    // A ends too and opens again at once; Z, which has not heard of it, resets the old flow: its RESET meets the new flow at A.
    pair.a.end(id)
    #expect(try pair.a.open(FlowTarget(host: "vm", port: 22)) == id)
    pair.z.reset(id)
    try pair.settle()
    pair.z.accept(id)
    try pair.settle()
    #expect(drain(&pair.a).suffix(1) == [.opened(id)])
    #expect(pair.a.sendable(id) == 1000)
  }

  @Test("lets an identifier rest until its channel has begun anew both ways, and refuses that for an open flow")
  func rest() throws {
    let limits = FlowLimits(window: 1_000, earlyData: 100)
    var a = FlowTable(role: .opener, limits: limits, identifiers: 3...3, identifiersRest: true)
    var z = FlowTable(role: .acceptor, limits: limits, identifiers: 3...3, identifiersRest: true)
    let id = try a.open(FlowTarget(host: "vm", port: 21))
    #expect(throws: FlowViolation.channelOfOpenFlowReset(id)) { try a.channelsReset(incoming: [id]) }
    while let (id, frame) = a.nextFrame() { try z.receive(frame, on: id) }
    z.refuse(id, .notAllowed)
    while let (id, frame) = z.nextFrame() { try a.receive(frame, on: id) }
    #expect(throws: FlowRefusal.tooManyFlows) { try a.open(FlowTarget(host: "vm", port: 21)) }
    #expect(a.takeChannelsToReset() == [id] && !a.hasChannelsToReset)
    // The acceptor hears of it, and does the same.
    try z.channelsReset(incoming: [id])
    #expect(z.takeChannelsToReset() == [id])
    a.channelsReset(outgoing: [id])
    #expect(throws: FlowRefusal.tooManyFlows) { try a.open(FlowTarget(host: "vm", port: 21)) }
    try a.channelsReset(incoming: [id])
    #expect(try a.open(FlowTarget(host: "vm", port: 21)) == id)
    #expect(throws: FlowViolation.identifierOutOfRange(FlowID(4))) { try z.channelsReset(incoming: [FlowID(4)]) }
  }

  @Test("gives up before the answer and closes when the answer comes, whichever it is", arguments: [true, false])
  func givesUp(accepted: Bool) throws {
    var pair = Pair(identifiers: 3...3)
    let id = try pair.a.open(FlowTarget(host: "vm", port: 21))
    if accepted {
      pair.collect()
      for (id, frame) in pair.toZ { try pair.z.receive(frame, on: id) }
      pair.toZ.removeAll()
      pair.z.accept(id)
    }
    pair.a.reset(id)
    try pair.settle()
    #expect(drain(&pair.a) == [.closed(id)])
    #expect(pair.a.count == 0 && pair.z.count == 0)
    #expect(try pair.a.open(FlowTarget(host: "vm", port: 22)) == id)
  }

  @Test("ends every flow when its channel is gone")
  func closeAll() throws {
    var pair = Pair()
    let first = try pair.established()
    let second = try pair.a.open(FlowTarget(host: "vm", port: 22))
    pair.a.closeAll(.lost)
    #expect(drain(&pair.a) == [.reset(first), .closed(first), .refused(second, .lost)])
    #expect(pair.a.count == 0 && pair.a.nextFrame() == nil)
  }

  @Test("refuses more data than it gave credit for")
  func overrun() throws {
    var pair = Pair()
    let id = try pair.established()
    #expect(throws: FlowViolation.moreDataThanCredit(id)) { try pair.z.receive(.data(octets(1001)), on: id) }
    #expect(throws: FlowViolation.openOfUsedFlow(id)) { try pair.z.receive(.open(FlowTarget(host: "x", port: 1), window: 5), on: id) }
    #expect(throws: FlowViolation.openFromAcceptor(id)) { try pair.a.receive(.open(FlowTarget(host: "x", port: 1), window: 5), on: id) }
    #expect(throws: FlowViolation.identifierOutOfRange(FlowID(8))) { try pair.z.receive(.end, on: FlowID(8)) }
    pair.a.end(id)
    try pair.settle()
    #expect(throws: FlowViolation.unexpected(.data, id)) { try pair.z.receive(.data(octets(1)), on: id) }
  }

  @Test(
    "frames read back as they were written, and nothing that is cut short does",
    arguments: [
      FlowFrame.open(FlowTarget(host: "vm.example", port: 65535), window: 7), .opened(window: .max), .refused(.timedOut), .data(octets(9)),
      .credit(3), .end, .reset,
    ])
  func coding(frame: FlowFrame) throws {
    var body = ByteBuffer()
    frame.writeBody(into: &body)
    #expect(try FlowFrame(kind: frame.kind, body: body) == frame)
    switch frame {
    case .open, .opened, .refused, .credit:
      for length in 0..<body.readableBytes {
        #expect(throws: FlowViolation.malformed(frame.kind)) {
          try FlowFrame(kind: frame.kind, body: body.getSlice(at: 0, length: length)!)
        }
      }
      body.writeInteger(UInt8(0))
      #expect(throws: FlowViolation.malformed(frame.kind)) { try FlowFrame(kind: frame.kind, body: body) }
    default: break
    }
  }

  @Test("carries every octet once and leaves nothing behind, whatever the two sides do", arguments: 0..<200)
  func random(seed: Int) throws {
    var random = SeededGenerator(seed: UInt64(seed))
    var pair = Pair(maximumFlows: 3, identifiers: 0...3)
    // What each side sent and what the other took, by a number of our own for each flow, in the order of their openings.
    struct Account {
      var sent = [0, 0]
      var taken = [0, 0]
      var endedBySender = [false, false]
      var endSeen = [false, false]
      var wasReset = false
      var gone = [false, false]
    }
    var accounts: [Account] = []
    var current: [[FlowID: Int]] = [[:], [:]]  // at A, at Z
    var waiting: [FlowID] = []
    var openings: [Int] = []

    func carry(_ side: Int, _ events: [FlowEvent]) {
      for event in events {
        switch event {
        case .incoming(let id, _):
          current[1][id] = openings.removeFirst()
          waiting.append(id)
        case .opened, .writable: break
        case .refused(let id, _):
          let number = current[0].removeValue(forKey: id)!
          accounts[number].wasReset = true
          accounts[number].gone[0] = true
        case .data(let id, let bytes):
          let number = current[side][id]!
          accounts[number].taken[1 - side] += bytes.readableBytes
          if side == 0 { pair.a.consumed(bytes.readableBytes, on: id) } else { pair.z.consumed(bytes.readableBytes, on: id) }
        case .ended(let id): accounts[current[side][id]!].endSeen[1 - side] = true
        case .reset(let id): accounts[current[side][id]!].wasReset = true
        case .closed(let id):
          accounts[current[side].removeValue(forKey: id)!].gone[side] = true
          waiting.removeAll { side == 1 && $0 == id }
        }
      }
    }
    func work() {
      carry(0, drain(&pair.a))
      carry(1, drain(&pair.z))
    }

    /// As `Pair.settle`, but the events of each frame are looked at before the next frame comes, as an owner does.
    func settle() throws {
      pair.collect()
      while !pair.toA.isEmpty || !pair.toZ.isEmpty {
        if !pair.toZ.isEmpty {
          let (id, frame) = pair.toZ.removeFirst()
          try pair.z.receive(frame, on: id)
          work()
        }
        if !pair.toA.isEmpty {
          let (id, frame) = pair.toA.removeFirst()
          try pair.a.receive(frame, on: id)
          work()
        }
        pair.collect()
      }
    }

    for _ in 0..<600 {
      let side = Int.random(in: 0...1, using: &random)
      switch Int.random(in: 0..<12, using: &random) {
      case 0, 1:
        if let id = try? pair.a.open(FlowTarget(host: "vm", port: 1)) {
          current[0][id] = accounts.count
          openings.append(accounts.count)
          accounts.append(Account())
        }
      case 2:
        if let id = waiting.randomElement(using: &random) {
          waiting.removeAll { $0 == id }
          if Bool.random(using: &random) {
            pair.z.accept(id)
          } else {
            pair.z.refuse(id, .failed)
            accounts[current[1].removeValue(forKey: id)!].gone[1] = true
          }
        }
      case 3, 4, 5:
        if let (id, number) = current[side].sorted(by: { $0.key < $1.key }).randomElement(using: &random) {
          let room = side == 0 ? pair.a.sendable(id) : pair.z.sendable(id)
          guard room > 0 else { break }
          let count = Int.random(in: 1...room, using: &random)
          accounts[number].sent[side] += count
          if side == 0 { pair.a.send(octets(count), on: id) } else { pair.z.send(octets(count), on: id) }
        }
      case 6:
        if let (id, number) = current[side].sorted(by: { $0.key < $1.key }).randomElement(using: &random),
          side == 0 || !waiting.contains(id)
        {
          accounts[number].endedBySender[side] = true
          if side == 0 { pair.a.end(id) } else { pair.z.end(id) }
        }
      case 7:
        if let (id, number) = current[side].sorted(by: { $0.key < $1.key }).randomElement(using: &random),
          Int.random(in: 0..<4, using: &random) == 0
        {
          accounts[number].wasReset = true
          if side == 0 {
            pair.a.reset(id)
          } else if waiting.contains(id) {
            waiting.removeAll { $0 == id }
            pair.z.reset(id)
            accounts[current[1].removeValue(forKey: id)!].gone[1] = true
          } else {
            pair.z.reset(id)
          }
        }
      default:
        pair.collect()
        if side == 1, !pair.toZ.isEmpty {
          let (id, frame) = pair.toZ.removeFirst()
          try pair.z.receive(frame, on: id)
        } else if side == 0, !pair.toA.isEmpty {
          let (id, frame) = pair.toA.removeFirst()
          try pair.a.receive(frame, on: id)
        }
      }
      work()  // at once: an identifier may be used again by the next step
    }
    try settle()
    for id in waiting {
      pair.z.refuse(id, .failed)
      accounts[current[1].removeValue(forKey: id)!].gone[1] = true
    }
    waiting.removeAll()
    try settle()
    for id in current[0].keys.sorted() { pair.a.end(id) }
    work()
    for id in current[1].keys.sorted() { pair.z.end(id) }
    try settle()
    #expect(pair.a.count == 0 && pair.z.count == 0, "seed \(seed)")
    for (number, account) in accounts.enumerated() {
      #expect(account.gone == [true, true], "seed \(seed), flow \(number)")
      for side in 0...1 {
        #expect(account.taken[side] <= account.sent[side], "seed \(seed), flow \(number)")
        if !account.wasReset { #expect(account.taken[side] == account.sent[side], "seed \(seed), flow \(number)") }
      }
    }
  }
}
