import Control
import ControlLink
import NIOCore
import Testing
import Vocabulary

@Suite("The stream of orders, cut into events")
struct OrderStreamTests {
  static func events(_ text: String, cutBy next: (Int) -> Int, maximum: Int = 4_096) throws -> [String] {
    var stream = OrderStream(maximumOctets: maximum)
    let octets = Array(text.utf8)
    var events: [String] = []
    var start = 0
    while start < octets.count {
      let end = min(start + max(next(octets.count - start), 1), octets.count)
      stream.append(ByteBuffer(bytes: octets[start..<end]))
      start = end
      while let event = try stream.next() { events.append(String(buffer: event)) }
    }
    return events
  }

  static let sample =
    ": hello\n\ndata: one\n\ndata:two\r\n\r\ndata: three\rdata: more\r\revent: x\nid: 4\nretry: 10\n\ndata\n\ndata:  padded\n: comment\n\n"
    + "database: no\n\n\n\ndata: \u{e9}\u{4e2d}\n\ndata: unfinished\n"
  static let expected = ["one", "two", "three\nmore", "", " padded", "\u{e9}\u{4e2d}"]

  @Test("every form of line end, field and comment is read")
  func forms() throws {
    #expect(try Self.events(Self.sample) { $0 } == Self.expected)
  }

  @Test("cut anywhere, it gives the same events", arguments: 1...40)
  func cuts(seed: UInt64) throws {
    var random = SeededGenerator(seed: seed)
    #expect(try Self.events(Self.sample) { _ in seed == 1 ? 1 : Int.random(in: 1...9, using: &random) } == Self.expected)
  }

  @Test("random octets end in events or in a refusal, never in more memory", arguments: 1...20)
  func garbage(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var stream = OrderStream(maximumOctets: 200)
    let alphabet = Array("data: \n\r:x".utf8)
    do {
      for _ in 0..<2_000 {
        let piece = (0..<Int.random(in: 1...20, using: &random)).map { _ in alphabet.randomElement(using: &random)! }
        stream.append(ByteBuffer(bytes: piece))
        while let event = try stream.next() { #expect(event.readableBytes <= 220) }
      }
    } catch {}
  }

  @Test("an event above the limit is refused, in one line or in many")
  func tooLong() {
    #expect(throws: OrderStream.EventTooLong.self) {
      try Self.events("data: " + String(repeating: "x", count: 200), cutBy: { _ in 16 }, maximum: 100)
    }
    #expect(throws: OrderStream.EventTooLong.self) {
      try Self.events(String(repeating: "data: xxxxxxxxx\n", count: 20), cutBy: { _ in 16 }, maximum: 100)
    }
  }
}

@Suite("Reports that wait")
struct ReportQueueTests {
  static func measured(_ number: Int) -> TimedReport {
    TimedReport(
      atMicroseconds: Int64(number), report: .measured(site: "x", roundTripMilliseconds: Double(number), rateMegabitsPerSecond: nil))
  }
  static func step(_ number: Int) -> TimedReport { TimedReport(atMicroseconds: Int64(number), report: .event("\(number)")) }

  @Test("when they are too many the oldest measurement goes first, then the oldest of all")
  func overflow() {
    var queue = ReportQueue(maximum: 4)
    for report in [Self.step(1), Self.measured(2), Self.measured(3), Self.step(4), Self.step(5)] { queue.add(report) }
    queue.add(Self.step(6))
    #expect(queue.dropped == 2)
    queue.add(Self.step(7))
    #expect(queue.takeBatch(10) == [Self.step(4), Self.step(5), Self.step(6), Self.step(7)])
  }

  @Test("a batch that comes back goes out first again")
  func putBack() {
    var queue = ReportQueue(maximum: 4)
    for number in 1...3 { queue.add(Self.step(number)) }
    let batch = queue.takeBatch(2)
    queue.add(Self.step(4))
    queue.putBack(batch)
    #expect(queue.count == 4)
    #expect(queue.takeBatch(10) == (1...4).map(Self.step))
  }

  @Test("a batch that comes back to a full queue leaves it within its limit")
  func putBackFull() {
    var queue = ReportQueue(maximum: 4)
    for number in 1...4 { queue.add(Self.measured(number)) }
    let batch = queue.takeBatch(2)
    queue.add(Self.step(5))
    queue.add(Self.step(6))
    queue.putBack(batch)
    #expect(queue.takeBatch(10) == [Self.measured(3), Self.measured(4), Self.step(5), Self.step(6)])
  }
}
