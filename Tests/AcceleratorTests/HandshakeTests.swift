import Flows
import Interception
import NIOCore
import Testing
import Vocabulary

@Suite("The handshake of HTTP CONNECT")
struct HandshakeTests {
  private func step(_ text: String, piece: Int = .max) -> (step: ProxyHandshakeStep, rest: String) {
    var handshake = HTTPConnectHandshake()
    var wire = ByteBuffer(string: text)
    var buffered = ByteBuffer()
    var last = ProxyHandshakeStep.needMore
    while let part = wire.readSlice(length: min(piece, wire.readableBytes)), part.readableBytes > 0 {
      buffered.writeImmutableBuffer(part)
      if last == .needMore { last = handshake.receive(&buffered) }
    }
    return (last, String(buffer: buffered))
  }

  @Test("names the target, and leaves what comes behind it", arguments: [1, 2, 3, 7, 64, 10_000])
  func target(piece: Int) {
    let head = "CONNECT vm.example:2121 HTTP/1.1\r\nHost: vm.example:2121\r\nX-Folded: one\r\n two\r\n\r\n"
    let got = step(head + "early data\r\n\r\n", piece: piece)
    #expect(got.step == .target(FlowTarget(host: "vm.example", port: 2_121)))
    #expect(got.rest == "early data\r\n\r\n")
  }

  @Test("takes IPv6 addresses, bare line feeds and HTTP/1.0")
  func variants() {
    #expect(step("CONNECT [2001:db8::1]:80 HTTP/1.1\r\n\r\n").step == .target(FlowTarget(host: "2001:db8::1", port: 80)))
    #expect(step("CONNECT h:1 HTTP/1.0\n\n").step == .target(FlowTarget(host: "h", port: 1)))
  }

  @Test(
    "refuses what is none",
    arguments: [
      "CONNECT h HTTP/1.1\r\n\r\n", "CONNECT h:0 HTTP/1.1\r\n\r\n", "CONNECT h:65536 HTTP/1.1\r\n\r\n", "CONNECT :80 HTTP/1.1\r\n\r\n",
      "CONNECT ::1:80 HTTP/1.1\r\n\r\n", "CONNECT [h]:80 HTTP/1.1\r\n\r\n", "CONNECT h:80\r\n\r\n", "CONNECT h:80 HTTP/2.0\r\n\r\n",
      "CONNECT u@h:80 HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "CONNECT h:80 HTTP/1.1\r\nno colon\r\n\r\n", "\u{5}\u{1}\u{0}",
      "CONNECT h\u{0}:80 HTTP/1.1\r\n\r\n",
    ])
  func invalid(request: String) {
    guard case .invalid(let answer, _) = step(request).step else {
      Issue.record("accepted: \(request)")
      return
    }
    #expect(String(buffer: answer).hasPrefix("HTTP/1.1 4"))
  }

  @Test("does not read on for ever")
  func tooLong() {
    guard case .invalid(let answer, _) = step("CONNECT h:80 HTTP/1.1\r\nX: " + String(repeating: "x", count: 9_000)).step else {
      Issue.record("a head of 9,000 octets is waited for")
      return
    }
    #expect(String(buffer: answer).hasPrefix("HTTP/1.1 431 "))
  }

  @Test("meets noise with an answer or a wait, never with a trap", arguments: UInt64(1)...50)
  func noise(seed: UInt64) {
    var random = SeededGenerator(seed: seed)
    var bytes = Array("CONNECT vm.example:2121 HTTP/1.1\r\nHost: x\r\n\r\n".utf8)
    for _ in 0..<Int.random(in: 1...6, using: &random) {
      bytes[Int.random(in: 0..<bytes.count, using: &random)] = .random(in: 0...255, using: &random)
    }
    var handshake = HTTPConnectHandshake()
    var buffer = ByteBuffer(bytes: bytes)
    _ = handshake.receive(&buffer)
    var socks = SOCKS5Handshake()
    var other = ByteBuffer(bytes: [5, 1, 0, 5, 1, 0] + bytes)
    for _ in 0..<4 { if case .reply = socks.receive(&other) { continue } }
  }
}
