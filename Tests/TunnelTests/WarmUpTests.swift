import Testing
import Tunnel
import Vocabulary

@Suite("The warm-up of a connection")
struct WarmUpTests {
  static let request = WarmRequest(rate: .megabitsPerSecond(100), roundTrip: .milliseconds(Int64(300)), hold: .seconds(Int64(60)))

  static func reading(_ delivered: Int, window: Int, unsent: Int = 0, isBusy: Bool = false) -> WarmUp.Reading {
    WarmUp.Reading(delivered: UInt64(delivered), congestionWindow: window, unsent: unsent, isBusy: isBusy)
  }

  /// What steps on a path would do: whatever is padded is delivered one round trip later, and the window follows what was delivered.
  static func run(_ warmUp: inout WarmUp, from start: Instant, keepsWindow: Bool = true) -> (padded: Int, took: TimeSpan, isFull: Bool)? {
    var now = start
    var sent: [(at: Instant, octets: Int)] = []
    var padded = 0
    for _ in 0..<100_000 {
      let delivered = sent.reduce(0) { $0 + (now - $1.at >= request.roundTrip ? $1.octets : 0) }
      let window = keepsWindow ? 14_600 + delivered : 14_600
      switch warmUp.step(reading(delivered, window: window), at: now) {
      case .pad(let octets, let again):
        if octets > 0 { sent.append((now, octets)) }
        padded += octets
        now = max(again, now)
      case .opened(_, let isFull, _): return (padded, now - start, isFull)
      case .over: return nil
      }
    }
    return nil
  }

  @Test("pads until twice bandwidth x delay has been delivered and the window is open")
  func opens() throws {
    var warmUp = WarmUp(WarmUpTests.request, at: .zero)
    #expect(warmUp.isOpening)
    let result = try #require(WarmUpTests.run(&warmUp, from: .zero))
    #expect(result.isFull)
    #expect(result.padded >= 2 * WarmUpTests.request.windowOctets)  // 2 x 3.75 MB
    #expect(result.took < .seconds(Int64(3)))
    #expect(!warmUp.isOpening)
  }

  @Test("ends after its time, open or not")
  func timesOut() throws {
    var warmUp = WarmUp(WarmUpTests.request, at: .zero)
    let result = try #require(WarmUpTests.run(&warmUp, from: .zero, keepsWindow: false))
    #expect(!result.isFull)
    #expect(result.took == WarmUpTests.request.roundTrip * 15)
  }

  @Test("leaves the way to data: no padding while there is some")
  func yields() {
    var warmUp = WarmUp(WarmUpTests.request, at: .zero)
    let step = warmUp.step(WarmUpTests.reading(0, window: 14_600, isBusy: true), at: .zero)
    #expect(step == .pad(0, again: .zero + WarmUp.tick))
    guard case .pad(let octets, _) = warmUp.step(WarmUpTests.reading(0, window: 1 << 20), at: .zero + WarmUp.tick) else {
      Issue.record("no padding after the data")
      return
    }
    #expect(octets == 125_000)  // 100 Mbit/s x 10 ms / 8
  }

  @Test("gives TCP no more than it lacks")
  func reserve() {
    var warmUp = WarmUp(WarmUpTests.request, at: .zero)
    #expect(warmUp.step(WarmUpTests.reading(0, window: 1 << 20, unsent: 100_000), at: .zero) == .pad(25_000, again: .zero + WarmUp.tick))
    #expect(warmUp.step(WarmUpTests.reading(0, window: 1 << 20, unsent: 400_000), at: .zero) == .pad(0, again: .zero + WarmUp.tick))
  }

  @Test(
    "leaves a quarter of the smaller window free, so that a flow that is opened meanwhile goes out at once",
    arguments: [(65_536, 1 << 20), (1 << 20, 65_536), (65_536, 0)])
  func leavesRoom(window: Int, peerWindow: Int) {
    var warmUp = WarmUp(WarmUpTests.request, at: .zero)
    func step(inFlight: Int, unsent: Int) -> Int? {
      let reading = WarmUp.Reading(
        delivered: 0, congestionWindow: window, peerWindow: peerWindow, inFlight: inFlight, unsent: unsent, isBusy: false)
      guard case .pad(let octets, _) = warmUp.step(reading, at: .zero) else { return nil }
      return octets
    }
    #expect(step(inFlight: 0, unsent: 0) == 49_152)  // 64 KiB x 3/4
    #expect(step(inFlight: 30_000, unsent: 10_000) == 9_152)
    #expect(step(inFlight: 49_152, unsent: 0) == 0)
    #expect(step(inFlight: 80_000, unsent: 0) == 0)
  }

  @Test("opens a window that has shrunk again while the hold lasts, but seldom, and is over after it")
  func holds() throws {
    var warmUp = WarmUp(WarmUpTests.request, at: .zero)
    let opened = Instant.zero + (try #require(WarmUpTests.run(&warmUp, from: .zero))).took
    let shrunk = WarmUpTests.reading(10_000_000, window: 14_600)
    let soon = opened + .seconds(Int64(1))
    #expect(warmUp.step(shrunk, at: soon) == .pad(0, again: soon + .seconds(Int64(1))))
    #expect(!warmUp.isOpening)
    let later = opened + WarmUpTests.request.roundTrip * 40
    #expect(warmUp.step(shrunk, at: later) == .pad(0, again: later))
    #expect(warmUp.isOpening)
    _ = WarmUpTests.run(&warmUp, from: later)
    #expect(warmUp.step(shrunk, at: .zero + WarmUpTests.request.hold) == .over)
  }

  @Test("asked for again lasts longer")
  func extends() throws {
    var warmUp = WarmUp(WarmUpTests.request, at: .zero)
    _ = WarmUpTests.run(&warmUp, from: .zero)
    warmUp.extend(WarmUpTests.request, at: .zero + .seconds(Int64(50)))
    let full = WarmUpTests.reading(10_000_000, window: 8_000_000)
    #expect(warmUp.step(full, at: .zero + .seconds(Int64(100))) == .pad(0, again: .zero + .seconds(Int64(101))))
    #expect(warmUp.step(full, at: .zero + .seconds(Int64(110))) == .over)
  }

  @Test("asked for by a peer is bounded in time and octets")
  func bounds() {
    let request = WarmRequest(rate: BitRate(bitsPerSecond: 1e12), roundTrip: .seconds(Int64(60)), hold: .seconds(Int64(86_400)))
    #expect(request.hold == TunnelLimits.hold)
    #expect(request.windowOctets == TunnelLimits.warmOctets / 2)
    var warmUp = WarmUp(request, at: .zero)
    _ = warmUp.step(WarmUpTests.reading(0, window: 0), at: .zero)
    guard case .opened = warmUp.step(WarmUpTests.reading(TunnelLimits.warmOctets, window: 0), at: .zero + WarmUp.tick) else {
      Issue.record("padding went on past its limit")
      return
    }
  }
}
