import Certificates
import Crypto
import Foundation
import NIOCore
import NIOEmbedded
import NIOPosix
import NIOSSL
import NIOTLS
import Testing

/// What the handlers behind a gate saw, as one line each: `peer agent/vm1`, `data ping`, `error ...`, `closed`.
final class Witness: ChannelInboundHandler, Sendable {
  typealias InboundIn = ByteBuffer

  let lines: AsyncStream<String>
  private let sink: AsyncStream<String>.Continuation

  init() { (lines, sink) = AsyncStream.makeStream() }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if let admitted = event as? PeerAdmitted {
      sink.yield("peer \(admitted.peer.map { "\($0.name)" } ?? "nobody")")
      context.writeAndFlush(NIOAny(ByteBuffer(string: "hello")), promise: nil)
    }
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) { sink.yield("data \(String(buffer: unwrapInboundIn(data)))") }
  func errorCaught(context: ChannelHandlerContext, error: any Error) { sink.yield("error \(error)") }

  func channelInactive(context: ChannelHandlerContext) {
    sink.yield("closed")
    sink.finish()
  }

  /// All lines up to and with the first that begins so; at most 20 s.
  func until(_ prefixes: String...) async -> [String] {
    await withTaskGroup(of: [String].self) { group in
      group.addTask {
        var seen: [String] = []
        for await line in self.lines {
          seen.append(line)
          if prefixes.contains(where: line.hasPrefix) { break }
        }
        return seen
      }
      group.addTask {
        try? await Task.sleep(for: .seconds(20))
        return ["timed out"]
      }
      defer { group.cancelAll() }
      return await group.next() ?? []
    }
  }
}

@Suite("TLS between nodes")
struct TLSTests {
  static let now = CertificateBench.now
  static let clock: @Sendable () -> Date = { CertificateBench.now }

  typealias Setup = @Sendable (any Channel) throws -> Void

  /// A server and a client over loopback; what each saw until it was admitted and heard the other, or failed.
  static func meet(server: @escaping Setup, client: @escaping Setup) async throws -> (server: [String], client: [String]) {
    let (serverSide, clientSide) = (Witness(), Witness())
    let group = MultiThreadedEventLoopGroup.singleton
    let listener = try await ServerBootstrap(group: group)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try server(channel)
          try channel.pipeline.syncOperations.addHandler(serverSide)
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    let connection = try await ClientBootstrap(group: group)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try client(channel)
          try channel.pipeline.syncOperations.addHandler(clientSide)
        }
      }
      .connect(to: listener.localAddress!).get()
    async let serverLines = serverSide.until("data", "error", "closed")
    async let clientLines = clientSide.until("data", "error", "closed")
    let result = await (serverLines, clientLines)
    try? await connection.close().get()
    try await listener.close().get()
    return result
  }

  static func secure(_ identity: NodeIdentity, _ end: TLSEnd, _ expectation: PeerExpectation) -> Setup {
    { channel in
      try identity.secure(channel.pipeline.syncOperations, as: end, expecting: expectation, clock: clock)
    }
  }

  @Test("stands when each shows a certificate that the other expects, and tells both the other's name")
  func mutual() async throws {
    let bench = try CertificateBench()
    let (server, client) = try await Self.meet(
      server: Self.secure(bench.identity("agent/vm1"), .server, .client),
      client: Self.secure(bench.identity("client/desk"), .client, .agent("vm1")))
    #expect(server == ["peer client/desk", "data hello"])
    #expect(client == ["peer agent/vm1", "data hello"])
  }

  @Test("refuses a client that shows no certificate, and the log says so")
  func noCertificate() async throws {
    let bench = try CertificateBench()
    let (server, client) = try await Self.meet(
      server: Self.secure(bench.identity("agent/vm1"), .server, .client),
      client: { channel in
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.certificateVerification = .none
        let tls = try NIOSSLClientHandler(context: NIOSSLContext(configuration: configuration), serverHostname: nil)
        try channel.pipeline.syncOperations.addHandler(tls)
      })
    #expect(server.count == 1 && server[0].contains("error the peer showed no certificate"), "\(server)")
    #expect(!client.contains { $0.hasPrefix("data") }, "\(client)")
    // What a gate would put into words: BoringSSL names the alert in the text of its error.
    #expect(client.contains { $0.contains("_ALERT_CERTIFICATE_REQUIRED") }, "\(client)")
  }

  @Test("refuses a client whose certificate is not good, the server's log says why, and the client's that it was refused")
  func badClients() async throws {
    let bench = try CertificateBench()
    let other = try CertificateBench()
    let revoked = try bench.identity("client/lost")
    try bench.authority.revoke("client/lost", at: Self.now)
    let server = try bench.identity("agent/vm1", revocations: bench.authority.revocations(at: Self.now))
    // The last of these trusts our CA, or it would refuse the server first.
    let stranger = try other.identity("client/desk")
    let cases: [(NodeIdentity, String)] = [
      (try bench.identity("client/old", lifetimeSeconds: 60, at: Self.now - 3_600), "client/old expired on 2027-01-15 07:01:00 UTC"),
      (try bench.identity("client/young", at: Self.now + 3_600), "client/young is valid from"), (revoked, "client/lost was revoked on"),
      (try bench.identity("accelerator/west"), "the peer is accelerator/west, where a client is expected"),
    ]
    for (identity, reason) in cases {
      let (serverLines, clientLines) = try await Self.meet(
        server: Self.secure(server, .server, .client), client: Self.secure(identity, .client, .agent("vm1")))
      #expect(serverLines.count == 1 && serverLines[0].contains("error") && serverLines[0].contains(reason), "\(serverLines)")
      // With TLS 1.3 the client is through first, and then hears the alert.
      #expect(clientLines.last?.contains("the other end refuses our certificate") == true, "\(clientLines)")
    }
    let (_, lines) = try await Self.meet(
      server: Self.secure(server, .server, .client), client: Self.secure(stranger, .client, .agent("vm1")))
    #expect(lines.count == 1 && lines[0].contains("agent/vm1 was signed by another CA"), "\(lines)")
  }

  @Test("refuses a server whose certificate is not good, or that is another machine than was asked for")
  func badServers() async throws {
    let bench = try CertificateBench()
    let client = try bench.identity("client/desk")
    let cases: [(NodeIdentity, String)] = [
      (try bench.identity("agent/vm1", lifetimeSeconds: 60, at: Self.now - 3_600), "agent/vm1 expired on"),
      (try bench.identity("agent/vm2"), "the peer is agent/vm2, where agent/vm1 is expected"),
      (try bench.identity("client/vm1"), "the peer is client/vm1, where an agent is expected"),
    ]
    for (identity, reason) in cases {
      let (serverLines, clientLines) = try await Self.meet(
        server: Self.secure(identity, .server, .client), client: Self.secure(client, .client, .agent("vm1")))
      #expect(clientLines.count == 1 && clientLines[0].contains(reason), "\(clientLines)")
      #expect(serverLines.last?.contains("the other end refuses our certificate") == true, "\(serverLines)")
    }
  }

  @Test("is version 1.3 and no other")
  func versions() async throws {
    let bench = try CertificateBench()
    let client = try bench.identity("client/desk")
    let (server, _) = try await Self.meet(
      server: Self.secure(bench.identity("agent/vm1"), .server, .client),
      client: { channel in
        var configuration = TLSConfiguration.makeClientConfiguration()
        configuration.maximumTLSVersion = .tlsv12
        configuration.certificateVerification = .none
        let tls = try NIOSSLClientHandler(context: NIOSSLContext(configuration: configuration), serverHostname: nil)
        try channel.pipeline.syncOperations.addHandler(tls)
      })
    #expect(server.count == 1 && server[0].contains("does not speak TLS 1.3"), "\(server)")
    let (_, lines) = try await Self.meet(
      server: { channel in
        let key = try NIOSSLPrivateKey(bytes: Array(P256.Signing.PrivateKey().derRepresentation), format: .der)
        var configuration = TLSConfiguration.makeServerConfiguration(certificateChain: [], privateKey: .privateKey(key))
        configuration.maximumTLSVersion = .tlsv12
        try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: NIOSSLContext(configuration: configuration)))
      }, client: Self.secure(client, .client, .agent(nil)))
    #expect(lines.count == 1 && lines[0].contains("does not speak TLS 1.3"), "\(lines)")
  }

  @Test("is refused to who speaks something else", arguments: ["GET / HTTP/1.1\r\n\r\n", "\u{0}\u{1}\u{2}garbage that is no record", "x"])
  func garbage(_ text: String) async throws {
    let bench = try CertificateBench()
    let (server, _) = try await Self.meet(
      server: Self.secure(bench.identity("agent/vm1"), .server, .client),
      client: { channel in
        channel.eventLoop.execute {
          channel.writeAndFlush(ByteBuffer(string: text)).whenComplete { _ in channel.close(promise: nil) }
        }
      })
    #expect(server.count == 1 && server[0].hasPrefix("error the other end"), "\(server)")
  }

  @Test("is given up when the handshake takes longer than its limit, at either end", arguments: [TLSEnd.server, .client])
  func silence(_ end: TLSEnd) throws {
    let bench = try CertificateBench()
    let channel = EmbeddedChannel()
    try bench.identity("agent/vm1").secure(channel.pipeline.syncOperations, as: end, expecting: .client, clock: Self.clock)
    try channel.connect(to: SocketAddress(ipAddress: "127.0.0.1", port: 1)).wait()
    channel.embeddedEventLoop.advanceTime(by: PeerGate.handshakeLimit - .milliseconds(1))
    try channel.throwIfErrorCaught()
    channel.embeddedEventLoop.advanceTime(by: .milliseconds(1))
    #expect(words { try channel.throwIfErrorCaught() } == "the TLS handshake was not over within 10 s")
    channel.embeddedEventLoop.advanceTime(by: .seconds(5))
    #expect(!channel.isActive)
  }
}
