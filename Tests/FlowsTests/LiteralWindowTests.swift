import Flows
import Testing

@Suite("The part of a flow's window that octets in full may take")
struct LiteralWindowTests {
  @Test("is used up by octets in full, and comes back with CREDIT")
  func full() {
    var window = LiteralWindow(limit: 1_000_000)
    window.sent(600_000, literal: 600_000)
    #expect(window.room == 400_000)
    window.sent(1_000_000, literal: 1_000_000)
    #expect(window.room == 0)
    window.credit(600_000)
    #expect(window.room == 600_000)
    window.credit(400_000)
    #expect(window.room == 1_000_000)
  }

  @Test("is left alone by names")
  func names() {
    var window = LiteralWindow(limit: 1_000_000)
    window.sent(50_000_000, literal: 1_000)
    #expect(window.room == 999_000)
    window.sent(51_000_000, literal: 1_001_000)
    #expect(window.room == 0)
    // CREDIT for the names gives back the thousand octets among them, and no more.
    window.credit(50_000_000)
    #expect(window.room == 0)
    window.credit(500_000)
    #expect(window.room == 0, "the mark stands at the end of what went at once")
    window.credit(500_000)
    #expect(window.room == 1_000_000)
  }

  @Test("gives nothing back too early, however small the steps are")
  func steps() {
    var window = LiteralWindow(limit: 10_000_000)
    var (sent, literal, credited) = (0, 0, 0)
    for step in 0..<5_000 {
      sent += 1_000
      if step % 3 == 0 { literal += 1_000 }
      window.sent(sent, literal: literal)
      if step % 10 == 9 {
        window.credit(5_000)
        credited += 5_000
      }
      // A third of what is under way went in full; a mark may be a sixteenth of the limit late.
      let underWay = (sent - credited) / 3
      #expect(10_000_000 - window.room >= underWay - 1_000)
      #expect(10_000_000 - window.room <= underWay + 10_000_000 / 16 + 2_000)
    }
  }
}
