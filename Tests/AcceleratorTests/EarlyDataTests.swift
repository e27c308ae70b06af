import Accelerator
import Glibc
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("Early data behind CONNECT (decision 4)")
  struct EarlyDataTests {
    @Test("reaches the server first and in order", arguments: Way.allCases, [1, 1_000, 65_536, 1_000_000])
    func inOrder(way: Way, count: Int) async throws {
      try await Pair.with { pair in
        let (listener, port) = try Socket.listen()
        let (early, late) = (pattern(count, seed: 1), pattern(50_000, seed: 2))
        // Nobody may have to read for the answer to come, so the write has a thread of its own.
        let client = try await onThread { try Socket.connect(pair.entrance) }
        async let writing: Void = onThread {
          try client.write(Array("CONNECT \(way.rawValue):\(port) HTTP/1.1\r\nHost: x\r\n\r\n".utf8) + early)
        }
        let head = try await onThread { try client.head() }
        #expect(head.hasPrefix("HTTP/1.1 200 "))
        let server = try await onThread { try listener.accept() }
        async let atServer = onThread { try server.readToEnd() }
        try await writing
        try await onThread {
          try client.write(late); client.endOutput()
        }
        #expect(try await atServer == early + late)
        try await onThread {
          try server.write(Array("done".utf8)); server.endOutput()
          #expect(try client.readToEnd() == Array("done".utf8))
        }
        try await pair.waitForNoFlows()
      }
    }

    @Test("is at the server before the client has read any answer, with the client's end behind it", arguments: Way.allCases)
    func withEnd(way: Way) async throws {
      try await Pair.with { pair in
        let (listener, port) = try Socket.listen()
        try await onThread {
          let client = try Socket.connect(pair.entrance)
          try client.write(Array("CONNECT \(way.rawValue):\(port) HTTP/1.1\r\n\r\n".utf8) + pattern(65_536, seed: 4))
          client.endOutput()
          let server = try listener.accept()
          #expect(try server.readToEnd() == pattern(65_536, seed: 4))
          try server.write(Array("reply".utf8))
          server.endOutput()
          #expect(try client.head().hasPrefix("HTTP/1.1 200 "))
          #expect(try client.readToEnd() == Array("reply".utf8))
        }
      }
    }

    @Test("does not hide why the target refused", arguments: Way.allCases, [0, 1_000, 65_536])
    func refused(way: Way, count: Int) async throws {
      try await Pair.with { pair in
        try await onThread {
          let (client, head) = try pair.connect(to: try Socket.freePort(), host: way.rawValue, early: pattern(count, seed: 5))
          #expect(head.hasPrefix("HTTP/1.1 502 Connection Refused\r\n"))
          #expect(try String(decoding: client.readToEnd(), as: UTF8.self).contains("the host refused the connection"))
        }
        try await pair.waitForNoFlows()
      }
    }
  }
}
