import Accelerator
import Testing
import Vocabulary

@Suite("The settings of an accelerator")
struct SettingsTests {
  private let place = Endpoint("127.0.0.1:0")!

  @Test("read peers and routes as the command line has them")
  func parsing() throws {
    let peer = try #require(AcceleratorSettings.Peer("b=10.2.0.5:7700"))
    #expect(peer.node == "b" && peer.tunnel == Endpoint("10.2.0.5:7700"))
    let route = try #require(AcceleratorSettings.Route("10.2.0.0/24=b"))
    #expect(route.peer == "b" && route.prefix == IPPrefix("10.2.0.0/24"))
    for text in ["", "b", "=10.2.0.5:1", "b=", "b=10.2.0.5", "b=name:1"] { #expect(AcceleratorSettings.Peer(text) == nil) }
    for text in ["", "10.2.0.0/24", "10.2.0.0/24=", "=b", "10.2.0.0/33=b", "name=b"] { #expect(AcceleratorSettings.Route(text) == nil) }
  }

  @Test("read static forwards, to addresses and to names")
  func forwards() throws {
    let forward = try #require(EntranceSettings.Forward("10.1.0.5:8080=10.2.0.9:80"))
    #expect(forward.listen == Endpoint("10.1.0.5:8080") && forward.target.host == "10.2.0.9" && forward.target.port == 80)
    let named = try #require(EntranceSettings.Forward("[::1]:8080=files.example:21"))
    #expect(named.listen == Endpoint("[::1]:8080") && named.target.host == "files.example" && named.target.port == 21)
    for text in ["", "10.1.0.5:8080", "10.1.0.5:8080=", "=h:1", "10.1.0.5=h:1", "h:1=10.1.0.5:8080", "10.1.0.5:1=h", "10.1.0.5:1=h:0"] {
      #expect(EntranceSettings.Forward(text) == nil, "\(text)")
    }
  }

  @Test("that cannot be are refused before anything is opened")
  func check() {
    func failure(
      node: NodeID = "a", entrance: Bool = true, peers: [NodeID] = [], routes: [AcceleratorSettings.Route] = []
    ) -> AcceleratorError? {
      let settings = AcceleratorSettings(
        node: node, keyFile: "key", entrance: entrance ? place : nil, peers: peers.map { .init(node: $0, tunnel: place) }, routes: routes)
      do throws(AcceleratorError) {
        try settings.check()
        return nil
      } catch {
        return error
      }
    }
    let prefix = IPPrefix("10.2.0.0/24")!
    #expect(failure(peers: ["b", "c"], routes: [.init(prefix: prefix, peer: "c")]) == nil)
    #expect(failure(entrance: false) == .nothingToDo)
    #expect(failure(peers: ["b", "b"]) == .peerTwice("b"))
    #expect(failure(peers: ["a"]) == .peerIsSelf("a"))
    #expect(failure(peers: ["b"], routes: [.init(prefix: prefix, peer: "c")]) == .unknownPeer("c", route: prefix))
    #expect(failure(node: "") == .badName(""))
    #expect(failure(node: "a\nb") == .badName("a\nb"))
    #expect(failure(peers: [NodeID(String(repeating: "x", count: 65))]) == .badName(NodeID(String(repeating: "x", count: 65))))
  }

  @Test("give a flow the window that the rate needs, within bounds")
  func windows() {
    func window(_ rate: BitRate?) -> Int { AcceleratorSettings(node: "a", keyFile: "key", rateLimit: rate).limits.window }
    #expect(window(nil) == 16 << 20)
    #expect(window(.megabitsPerSecond(48)) == 16 << 20)
    #expect(window(.megabitsPerSecond(400)) == 100_000_000)  // 4 x 400 Mbit/s x 500 ms / 8
    #expect(window(.megabitsPerSecond(10_000)) == 128 << 20)
  }
}
