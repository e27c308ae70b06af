import Control
import Testing
import Vocabulary

@Suite("The pace of GO")
struct GoPacingTests {
  static func delays(_ count: Int, _ pacing: inout GoPacing, at now: Instant) -> [TimeSpan] {
    (0..<count).map { _ in pacing.delay(at: now) }
  }

  @Test("lets a few hundred clients move at once, and spreads more of them by their number", arguments: [1, 500, 1_000, 10_000])
  func spread(clients: Int) throws {
    var pacing = GoPacing()
    let delays = Self.delays(clients, &pacing, at: Instant(nanoseconds: 5))
    #expect(delays.prefix(500).allSatisfy { $0 == .zero })
    #expect(delays == delays.sorted())
    let last = try #require(delays.last)
    #expect(abs(last.seconds - Double(max(0, clients - 500)) / 2_000) < 0.001)
  }

  @Test("lets the next handover begin at once when the last one is over")
  func again() {
    var pacing = GoPacing()
    let began = Instant(nanoseconds: 0)
    _ = Self.delays(2_000, &pacing, at: began)
    #expect(pacing.delay(at: began) > .zero)
    #expect(Self.delays(500, &pacing, at: began + .seconds(2.0)).allSatisfy { $0 == .zero })
  }
}
