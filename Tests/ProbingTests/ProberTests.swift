import Control
import NIOCore
import NIOPosix
import Probing
import Testing
import Vocabulary

@Suite("A prober of paths")
struct ProberTests {
  @Test("round trips come at the interval, and a rate soon after the first")
  func measures() async throws {
    try await ResponderTests.with { responder in
      let prober = try await Prober()
      try await prober.watch(ProbeTarget("near", responder.endpoint))
      for _ in 0..<5 {
        guard case .measured(let site, let roundTrip, _) = try await prober.reports.next() else { throw ChannelError.eof }
        #expect(site == "near" && roundTrip > 0 && roundTrip < 10_000)
      }
      try await prober.stop()
    }
  }

  @Test("the rate of a train is reported with a round trip")
  func rate() async throws {
    let place = try await Place.start(isSlow: true)
    var limits = Prober.limits
    // A busy machine may tear a train into bursts that are too short to tell: then there are more.
    limits.trainInterval = .milliseconds(10.0)
    let prober = try await Prober(limits: limits)
    try await prober.watch(ProbeTarget("near", place.endpoint))
    while true {
      guard case .measured(_, _, let rate) = try await prober.reports.next() else { throw ChannelError.eof }
      guard let rate else { continue }
      #expect(rate > 0.1)
      break
    }
    try await prober.stop()
    try await place.stop()
  }

  @Test("a port where nobody listens is unreachable, again and again, until somebody does")
  func refused() async throws {
    let place = try await Place.start()
    try await place.stop()
    let prober = try await Prober()
    try await prober.watch(ProbeTarget("far", place.endpoint))
    for _ in 0..<2 {
      let trouble = try #require(try await prober.reports.next().trouble)
      #expect(trouble == "probe of \(place.endpoint): Connection refused")
    }
    let responder = try await ProbeResponder.bind(to: place.endpoint, on: MultiThreadedEventLoopGroup.singleton.next(), logger: quiet)
    _ = try await prober.reports.next { $0.isMeasured }
    await responder.close()
    _ = try await prober.reports.next { $0.trouble?.contains("closed by the other side") == true || $0.trouble?.contains("reset") == true }
    try await prober.stop()
  }

  @Test("a server that says nothing is unreachable, and tried on a new connection")
  func silent() async throws {
    let place = try await Place.start(answers: false)
    var limits = Prober.limits
    limits.shortestLoss = .milliseconds(50.0)
    let prober = try await Prober(limits: limits)
    try await prober.watch(ProbeTarget("far", place.endpoint))
    for _ in 0..<2 {
      #expect(try await place.events.next() == .accepted)
      #expect(try await place.events.next() == .asked(.echo))
      #expect(try await place.events.next { $0 != .asked(.echo) } == .closed)
      #expect(try await prober.reports.next().trouble?.contains("no answer to a probe within") == true)
    }
    try await prober.stop()
    try await place.stop()
  }

  @Test("a server of another protocol is unreachable, and named so")
  func stranger() async throws {
    let channel = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.writeAndFlush(ByteBuffer(string: "220 (vsFTPd 3.0.3) hello\r\n"), promise: nil)
        return channel.eventLoop.makeSucceededVoidFuture()
      }
      .bind(to: loopback.socketAddress).get()
    let prober = try await Prober()
    try await prober.watch(ProbeTarget("far", Endpoint(address: loopback.address, port: UInt16(channel.localAddress!.port!))))
    let trouble = try await prober.reports.next().trouble
    #expect(trouble?.contains("not the probe protocol") == true || trouble?.contains("closed") == true, "\(trouble ?? "-")")
    try await prober.stop()
    try await channel.close()
  }

  @Test("a new list of targets keeps the connections to those that stay, and ends the others")
  func targetsChange() async throws {
    let (a, b, c) = (try await Place.start(), try await Place.start(), try await Place.start())
    let prober = try await Prober()
    try await prober.watch(ProbeTarget("a", a.endpoint), ProbeTarget("b", b.endpoint))
    for place in [a, b] {
      #expect(try await place.events.next() == .accepted)
      #expect(try await place.events.next() == .asked(.echo))
      #expect(try await place.events.next() == .asked(.train))
    }
    try await prober.watch(ProbeTarget("a", a.endpoint, every: 200), ProbeTarget("c", c.endpoint))
    #expect(try await c.events.next() == .accepted)
    #expect(try await b.events.next { $0 != .asked(.echo) } == .closed)
    for _ in 0..<3 { #expect(try await a.events.next() == .asked(.echo)) }  // and neither `closed` nor `accepted`
    try await prober.watch()
    #expect(try await a.events.next { $0 != .asked(.echo) } == .closed)
    try await prober.stop()
    for place in [a, b, c] { try await place.stop() }
  }

  @Test("the same target twice is one, and a stopped prober follows no list")
  func twice() async throws {
    let place = try await Place.start()
    let prober = try await Prober()
    try await prober.watch(ProbeTarget("a", place.endpoint), ProbeTarget("a", place.endpoint))
    #expect(try await place.events.next() == .accepted)
    #expect(try await place.events.next() == .asked(.echo))
    try await prober.stop()
    #expect(try await place.events.next { $0 != .asked(.echo) && $0 != .asked(.train) } == .closed)
    try await prober.watch(ProbeTarget("a", place.endpoint))
    let stranger = try await Stranger.connect(to: place.endpoint)
    #expect(try await place.events.next() == .accepted)
    await stranger.close()
    #expect(try await place.events.next() == .closed)
    try await place.stop()
  }
}
