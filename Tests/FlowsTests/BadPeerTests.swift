import Flows
import NIOCore
import Testing

@Suite("A peer that floods a flow table")
struct FlowFloodTests {
  static func acceptor() -> FlowTable {
    FlowTable(role: .acceptor, limits: FlowLimits(window: 1_000, earlyData: 100, maximumFlows: 4), identifiers: 0...65_534)
  }

  @Test("opens without end: what is beyond the limit is refused at once, and nothing of it is kept")
  func opens() throws {
    var table = Self.acceptor()
    for number in 0..<50_000 as Range<UInt32> {
      try table.receive(.open(FlowTarget(host: "vm", port: 1), window: 1_000), on: FlowID(number))
    }
    #expect(table.count == 4)
    var incoming = 0
    while let event = table.nextEvent() { if case .incoming = event { incoming += 1 } }
    var refused = 0
    while let (_, frame) = table.nextFrame() { if frame == .refused(.tooManyFlows) { refused += 1 } }
    #expect(incoming == 4 && refused == 49_996)
  }

  @Test("speaks of flows that never were: nothing happens, and nothing is kept")
  func strangers() throws {
    var table = Self.acceptor()
    for number in 0..<10_000 as Range<UInt32> {
      for frame in [.opened(window: 9), .refused(.failed), .data(ByteBuffer(string: "x")), .credit(9), .end, .reset] as [FlowFrame] {
        try table.receive(frame, on: FlowID(number))
      }
    }
    #expect(table.count == 0 && table.nextEvent() == nil && table.nextFrame() == nil)
  }

  @Test("gives credit until it would pass 2^32, or sends more than its own: the session ends")
  func credit() throws {
    var table = Self.acceptor()
    try table.receive(.open(FlowTarget(host: "vm", port: 1), window: .max), on: FlowID(1))
    #expect(throws: FlowViolation.creditOverflow(FlowID(1))) { try table.receive(.credit(1), on: FlowID(1)) }
    #expect(throws: FlowViolation.moreDataThanCredit(FlowID(1))) {
      try table.receive(.data(ByteBuffer(repeating: 1, count: 101)), on: FlowID(1))
    }
  }
}
