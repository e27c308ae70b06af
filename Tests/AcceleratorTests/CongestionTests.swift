import Accelerator
import Testing
import Vocabulary

@Suite("The congestion control of a tunnel connection")
struct CongestionTests {
  private func moment(_ seconds: Double) -> Instant { Instant.zero + .seconds(seconds) }

  @Test(
    "is cubic while paced and without losses, BBR for good after three in ten seconds' segments, and BBR at once where nothing paces or idle windows close"
  )
  func losses() {
    var policy = CongestionPolicy(isPaced: true, keepsIdleWindows: true)
    #expect(policy.control == .cubic)
    let hasChanged = [(10_000, 1), (90_000, 2), (100_000, 4), (110_000, 5)].map { policy.observe(sent: $0.0, retransmitted: $0.1) }
    // The second look is beyond the memory of the first, so that its two do not count any more.
    #expect(hasChanged == [false, false, false, true])
    #expect(policy.control == .bbr)
    #expect(CongestionPolicy(isPaced: false, keepsIdleWindows: true).control == .bbr)
    #expect(CongestionPolicy(isPaced: true, keepsIdleWindows: false).control == .bbr)
  }

  @Test("is chosen again before BBR closes the window for its measurement, sooner where nothing is under way")
  func renewal() {
    var policy = CongestionPolicy(isPaced: true, keepsIdleWindows: false)
    func renews(_ seconds: Double, window: Int = 1_000, isIdle: Bool = false) -> Bool {
      policy.renews(window: window, needed: 1_000, isIdle: isIdle, at: moment(seconds))
    }
    #expect(renews(100))
    #expect(!renews(107.9))
    #expect(renews(108))
    #expect(!renews(108.5, isIdle: true))
    #expect(renews(109.1, isIdle: true))
    // BBR's own business: a window that it opens, or has closed for a moment.
    #expect(!renews(200, window: 999))
    #expect(renews(200.05))
  }

  @Test("is left alone where nothing paces, or cubic is at work")
  func leftAlone() {
    var unpaced = CongestionPolicy(isPaced: false, keepsIdleWindows: true)
    var cubic = CongestionPolicy(isPaced: true, keepsIdleWindows: true)
    let chosenAgain = [
      unpaced.renews(window: 1_000, needed: 1_000, isIdle: true, at: moment(100)),
      cubic.renews(window: 1_000, needed: 1_000, isIdle: true, at: moment(100)),
    ]
    #expect(chosenAgain == [false, false])
  }
}
