import Flows
import Logging
import NIOCore
import NIOEmbedded
import Relay
import Testing
import Vocabulary

/// Flows of several classes on one hub, whose transport is full until the test says otherwise.
@Suite("Flows that compete")
struct FlowHubClassTests {
  private final class Transport: FlowTransport {
    var space = 0
    var sent: [(id: FlowID, octets: Int)] = []

    func transmit(_ frame: FlowFrame, on flow: FlowID) {
      guard case .data(let bytes) = frame else { return }
      sent.append((flow, bytes.readableBytes))
      space = max(space - bytes.readableBytes, 0)
    }

    func flush() {}
  }

  private struct Bench {
    let hub: FlowHub
    let transport = Transport()
    var channels: [(id: FlowID, channel: EmbeddedChannel)] = []

    /// Each flow is open, and its socket has `waiting` octets that found no room.
    init(_ flows: [(priority: FlowPriority, waiting: Int)]) throws {
      let loop = EmbeddedEventLoop()
      hub = FlowHub(
        loop: loop, role: .opener, limits: FlowLimits(maximumFlows: 64), identifiers: 1...100, maximumDataOctets: 32 << 10,
        logger: Logger(label: "test")
      ) { _, _ in }
      hub.attach(transport: transport)
      for flow in flows {
        let id = try hub.open(FlowTarget(host: "h", port: 1)) { _ in }
        let channel = EmbeddedChannel(loop: loop)
        try channel.connect(to: try SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
        hub.setPriority(flow.priority, of: id)
        hub.join(channel, to: id)
        try hub.receive(.opened(window: 16 << 20), on: id)
        hub.receiveComplete()
        try channel.writeInbound(ByteBuffer(repeating: 7, count: flow.waiting))
        channels.append((id, channel))
      }
      #expect(transport.sent.isEmpty)
    }

    /// The transport takes so much; which flows, by their place, it got octets of, in order and each once.
    func serve(_ space: Int) -> [Int] {
      transport.sent.removeAll()
      transport.space = space
      hub.transportHasSpace()
      var order: [Int] = []
      for (id, _) in transport.sent {
        if let place = channels.firstIndex(where: { $0.id == id }), order.last != place { order.append(place) }
      }
      return order
    }
  }

  @Test("go by class before they go by turn: keystrokes pass downloads that have waited longer")
  func interactiveFirst() throws {
    let bench = try Bench([(.bulk, 100_000), (.bulk, 100_000), (.interactive, 100), (.bulk, 100_000), (.interactive, 100)])
    #expect(bench.serve(32 << 10).prefix(3) == [2, 4, 0])
  }

  @Test("of one class are served in turn, each once before any twice")
  func inTurn() throws {
    let bench = try Bench([(.bulk, 100_000), (.bulk, 100_000), (.bulk, 100_000)])
    #expect(bench.serve(32 << 10) == [0])
    #expect(bench.serve(32 << 10) == [1])
    #expect(bench.serve(32 << 10) == [2])
    #expect(bench.serve(32 << 10) == [0])
  }

  @Test("leave bulk its tenth, however much the others want")
  func bulkLives() throws {
    let bench = try Bench([(.interactive, 8 << 20), (.bulk, 8 << 20)])
    var octets = [0, 0]
    for _ in 0..<200 {
      _ = bench.serve(32 << 10)
      for (id, count) in bench.transport.sent { octets[bench.channels[0].id == id ? 0 : 1] += count }
    }
    let part = Double(octets[1]) / Double(octets[0] + octets[1])
    #expect((0.12...0.17).contains(part), "1 of 7 where normal flows want nothing, and it is \(part)")
  }

  @Test("and that no rule speaks of are interactive until they have moved much")
  func pace() throws {
    let bench = try Bench([(.normal, 2 << 20), (.normal, 2 << 20), (.interactive, 2 << 20)])
    // The first moves more than 256 KiB, and is normal from then on; the second has moved nothing, and is served before it has another turn.
    #expect(bench.serve(300_000).first == 0)
    var order: [Int] = []
    while order.count < 4 { order += bench.serve(32 << 10) }
    #expect(order.contains(1) && order.contains(2))
  }
}
