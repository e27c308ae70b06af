import Accelerator
import CertificateSupport
import Certificates
import Foundation
import TestSupport
import Testing
import Vocabulary

extension Loopback {
  @Suite("A tunnel with certificates")
  struct SealedTunnelTests {
    private func options(a: String?, b: String?, _ logs: (a: LogBook, b: LogBook)? = nil, connections: Int = 0) -> Pair.Options {
      Pair.Options(
        certificatesOfA: a, certificatesOfB: b, loggerOfA: logs?.a.logger("a") ?? Pair.quiet, loggerOfB: logs?.b.logger("b") ?? Pair.quiet,
        connections: connections)
    }

    @Test("carries octets both ways, whole and in order, and needs no key", arguments: [1, 32_769, 6_000_000], [true, false])
    func bothWays(count: Int, isText: Bool) async throws {
      let ca = try TestAuthority()
      let (a, b) = (try ca.node("accelerator/a"), try ca.node("accelerator/b"))
      try await Pair.with(options(a: a, b: b, connections: 1)) { pair in
        let up = isText ? text(count, seed: 1) : pattern(count, seed: 1)
        let down = isText ? text(count, seed: 2) : pattern(count, seed: 2)
        let (client, server) = try await pair.flow()
        let got = try await exchange(client, up, server, down)
        #expect(got.atServer == up)
        #expect(got.atClient == down)
        try await pair.waitForNoFlows()
      }
    }

    @Test("shows nothing of what it carries")
    func confidential() async throws {
      let ca = try TestAuthority()
      let folder = try ca.node("accelerator/a")
      // What stands in b's place sees the first octets of a: a TLS record, and no name in the clear.
      let (listener, port) = try Socket.listen()
      let a = AcceleratorService(
        settings: AcceleratorSettings(
          node: "a", certificates: folder, entrance: Endpoint("127.0.0.1:0")!, peers: [.init("b=127.0.0.1:\(port)")!]), logger: Pair.quiet)
      try await Pair.running(a) { _ in
        let first = try await onThread { try listener.accept().read(exactly: 64) }
        #expect(Array(first.prefix(2)) == [22, 3])
        #expect(!String(decoding: first, as: UTF8.self).contains("LHTN"))
      }
    }

    @Test("resets its flows when it is cut, and dials again")
    func cut() async throws {
      let ca = try TestAuthority()
      let (a, b) = (try ca.node("accelerator/a"), try ca.node("accelerator/b"))
      try await Pair.with(options(a: a, b: b, connections: 1)) { pair in
        let (client, server) = try await pair.flow()
        #expect(try await passOne(client, server) == [1])
        try await pair.a.cutTunnels()
        #expect(try await onThread { try server.endsWithReset() })
        #expect(try await onThread { try client.endsWithReset() })
        try await pair.waitForConnections(1)
        let (next, nextServer) = try await pair.flow()
        #expect(try await exchange(next, [2], nextServer, [3]).atClient == [3])
      }
    }

    private func passOne(_ client: Socket, _ server: Socket) async throws -> [UInt8] {
      try await onThread { () -> [UInt8] in
        try client.write([1])
        return try server.read(exactly: 1)
      }
    }

    @Test("is refused to another node than the one meant, and both ends say so")
    func anotherNode() async throws {
      let ca = try TestAuthority()
      let logs = (a: LogBook(), b: LogBook())
      let settings = (
        a: try ca.node("accelerator/a"), c: try ca.node("accelerator/c")
      )
      let c = AcceleratorService(
        settings: AcceleratorSettings(node: "c", certificates: settings.c, tunnel: Endpoint("127.0.0.1:0")!), logger: logs.b.logger("c"))
      try await Pair.running(c) { places in
        let a = AcceleratorService(
          settings: AcceleratorSettings(
            node: "a", certificates: settings.a, entrance: Endpoint("127.0.0.1:0")!, peers: [.init(node: "b", tunnel: places.tunnel!)]),
          logger: logs.a.logger("a"))
        try await Pair.running(a) { _ in
          try await logs.a.wait(for: "the peer is accelerator/c, where accelerator/b is expected")
          try await logs.b.wait(for: "turned away: the other end refuses our certificate; its log says why")
        }
      }
    }

    @Test("is refused to who is no accelerator, was revoked, or is of another authority; both ends say so")
    func strangers() async throws {
      let ca = try TestAuthority()
      let other = try TestAuthority()
      let b = try ca.node("accelerator/b")
      let logs = (a: LogBook(), b: LogBook())
      let revoked = try ca.node("accelerator/a")
      _ = try ca.authority.revoke("accelerator/a")
      try NodeFolder(b).write(try ca.authority.revocations())
      let service = AcceleratorService(
        settings: AcceleratorSettings(node: "b", certificates: b, tunnel: Endpoint("127.0.0.1:0")!), logger: logs.b.logger("b"))
      try await Pair.running(service) { places in
        for (folder, here, there) in [
          (revoked, "the other end refuses our certificate", "the certificate of accelerator/a was revoked on"),
          (try other.node("accelerator/a"), "was signed by another CA", "the other end"),
        ] {
          let a = AcceleratorService(
            settings: AcceleratorSettings(
              node: "a", certificates: folder, entrance: Endpoint("127.0.0.1:0")!, peers: [.init(node: "b", tunnel: places.tunnel!)]),
            logger: logs.a.logger("a"))
          try await Pair.running(a) { _ in
            try await logs.a.wait(for: here)
            try await logs.b.wait(for: there)
          }
        }
      }
    }

    @Test("is not had by an accelerator that calls itself by another's name")
    func falseName() async throws {
      let ca = try TestAuthority()
      let logs = LogBook()
      let b = AcceleratorService(
        settings: AcceleratorSettings(node: "b", certificates: try ca.node("accelerator/b"), tunnel: Endpoint("127.0.0.1:0")!),
        logger: logs.logger("b"))
      let folder = try ca.node("accelerator/a")
      try await Pair.running(b) { places in
        let said = try await FalseCaller.call(places.tunnel!, as: "c", certificates: folder)
        #expect(said == "the caller says that it is c, and its certificate is that of accelerator/a; correct its --node")
        try await logs.wait(for: "turned away: the caller says that it is c")
      }
    }

    @Test("and an accelerator without: both say what is wrong", arguments: [true, false])
    func oneSided(sealedCaller: Bool) async throws {
      let ca = try TestAuthority()
      let folder = try ca.node(sealedCaller ? "accelerator/a" : "accelerator/b")
      let logs = (a: LogBook(), b: LogBook())
      try await Pair.with(options(a: sealedCaller ? folder : nil, b: sealedCaller ? nil : folder, logs)) { _ in
        if sealedCaller {
          try await logs.b.wait(for: "turned away: the caller speaks TLS: it has --certificates, and this accelerator has none")
          try await logs.a.wait(for: "the other end closed the connection in the middle of the TLS handshake; its log says why")
        } else {
          try await logs.b.wait(for: "turned away: the other end does not speak TLS")
          try await logs.a.wait(for: "the peer answers TLS: it has --certificates, and this accelerator has none")
        }
      }
    }

    @Test("outlives a scanner that connects and says nothing, or noise")
    func noise() async throws {
      let ca = try TestAuthority()
      let (a, b) = (try ca.node("accelerator/a"), try ca.node("accelerator/b"))
      try await Pair.with(options(a: a, b: b, connections: 1)) { pair in
        for seed in UInt64(0)..<20 {
          try await onThread {
            let socket = try Socket.connect(pair.tunnel)
            if seed > 0 { try? socket.write(pattern(Int(seed) * 50, seed: seed)) }
          }
        }
        let (client, server) = try await pair.flow()
        #expect(try await exchange(client, [1, 2], server, [3]).atServer == [1, 2])
      }
    }
  }
}
