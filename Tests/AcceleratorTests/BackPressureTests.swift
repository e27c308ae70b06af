import Accelerator
import Flows
import Glibc
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("Back-pressure")
  struct BackPressureTests {
    static let offered = 256 << 20

    /// Writes until nothing is taken for half a second, or all is; how much was taken.
    private static func fill(_ socket: Socket, _ block: [UInt8]) throws -> Int {
      var total = 0
      while total < offered {
        let count = try socket.writeSome(block)
        total += count
        if count == 0, !socket.waitForRoom(500) { break }
      }
      return total
    }

    private static func residentOctets() -> Int {
      guard let file = fopen("/proc/self/statm", "r") else { return 0 }
      defer { fclose(file) }
      var line = [CChar](repeating: 0, count: 128)
      guard fgets(&line, 128, file) != nil else { return 0 }
      let fields = line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }.split(separator: UInt8(ascii: " "))
      return (Int(String(decoding: fields[1], as: UTF8.self)) ?? 0) * Int(getpagesize())
    }

    @Test(
      "stops a sender whose receiver has stopped, keeps memory bounded, and loses nothing when it goes on", arguments: Way.allCases,
      [true, false])
    func stoppedReceiver(way: Way, isText: Bool) async throws {
      let window = 1 << 20
      try await Pair.with(.init(limits: FlowLimits(window: window, maximumFlows: 64))) { pair in
        let (listener, port) = try Socket.listen(receiveBuffer: 65_536)
        let client = try await onThread { try pair.connected(to: port, host: way.rawValue) }
        let server = try await onThread { try listener.accept() }
        let block = isText ? text(64 << 10, seed: 1) : pattern(64 << 10, seed: 1)
        let before = BackPressureTests.residentOctets()
        let sent = try await onThread { try BackPressureTests.fill(client, block) }
        // One window, and what the kernel's four buffers take: on loopback at most 4 MB sending (tcp_wmem) and some more receiving at each hop.
        #expect(sent < window + (24 << 20))
        #expect(BackPressureTests.residentOctets() - before < 64 << 20)
        // Another flow beside the one that stands still, on the same tunnel connection or not, is not held up.
        let (other, otherServer) = try await pair.flow(host: way.rawValue)
        #expect(try await exchange(other, pattern(300_000, seed: 2), otherServer, []).atServer == pattern(300_000, seed: 2))
        client.endOutput()
        let got = try await onThread { try server.readToEnd() }
        #expect(got.count == sent)
        let isRight = stride(from: 0, to: got.count, by: block.count).allSatisfy { start in
          got[start..<min(start + block.count, got.count)].elementsEqual(block.prefix(min(block.count, got.count - start)))
        }
        #expect(isRight || sent % block.count != 0)
      }
    }

    @Test("holds the server back as well when the client has stopped")
    func stoppedClient() async throws {
      let window = 1 << 20
      try await Pair.with(.init(limits: FlowLimits(window: window, maximumFlows: 64))) { pair in
        let (client, server) = try await pair.flow()
        client.setReceiveBuffer(65_536)
        let sent = try await onThread { try BackPressureTests.fill(server, pattern(64 << 10, seed: 1)) }
        #expect(sent < window + (24 << 20))
        server.endOutput()
        #expect(try await onThread { try client.readToEnd().count } == sent)
      }
    }

    /// A bug that was: what a relay held went out in one portion for each wake-up, and after the last wake-up the rest stayed where it was.
    @Test("of a flow whose sender has ended does not leave its last octets behind", arguments: [200_000, 1_000_000, 4_000_000])
    func endWithoutCredit(count: Int) async throws {
      try await Pair.with(.init(limits: FlowLimits(window: 65_536, maximumFlows: 64))) { pair in
        let (client, server) = try await pair.flow()
        async let sending: Void = onThread {
          try client.write(pattern(count, seed: 1))
          client.endOutput()
        }
        let got = try await onThread { try server.readToEnd() }
        try await sending
        #expect(got == pattern(count, seed: 1))
      }
    }

    @Test("does not keep a flow of a stopped receiver alive once its sender is gone")
    func senderGone() async throws {
      try await Pair.with(.init(limits: FlowLimits(window: 1 << 20, maximumFlows: 64))) { pair in
        let (client, server) = try await pair.flow()
        _ = try await onThread { try BackPressureTests.fill(client, pattern(64 << 10, seed: 1)) }
        client.reset()
        #expect(try await onThread { try server.endsWithReset() })
        try await pair.waitForNoFlows()
      }
    }
  }
}
