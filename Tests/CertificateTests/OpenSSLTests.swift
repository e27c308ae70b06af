import Certificates
import Foundation
import NIOCore
import NIOPosix
import Testing

private let openssl = "/usr/bin/openssl"

/// What another implementation makes of ours; where there is one.
@Suite("openssl", .enabled(if: FileManager.default.isExecutableFile(atPath: openssl), "openssl is not installed"))
struct OpenSSLTests {
  static let now = CertificateBench.now
  static let clock: @Sendable () -> Date = { CertificateBench.now }

  /// Runs a command of openssl in a folder, with its clock at the bench's time; what it printed. It is given a line to send, and 20 s.
  static func run(_ command: String, _ words: String, in folder: String) async throws -> String {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/bin/sh")
    process.currentDirectoryURL = URL(fileURLWithPath: folder)
    process.arguments = [
      "-c", "echo ping | timeout 20 \(openssl) \(command) -attime \(Int(now.timeIntervalSince1970)) \(words) > out 2>&1",
    ]
    await withCheckedContinuation { continuation in
      process.terminationHandler = { _ in continuation.resume() }
      do { try process.run() } catch { continuation.resume() }
    }
    return try String(contentsOfFile: folder + "/out", encoding: .utf8)
  }

  @Test("takes our certificates, and refuses those that our list revokes")
  func verify() async throws {
    let bench = try CertificateBench()
    _ = try bench.node("agent/lost")
    try bench.authority.revoke("agent/lost", at: Self.now)
    let list = try bench.authority.revocations(at: Self.now)
    let good = try bench.node("agent/vm1", revocations: list)
    #expect(try await Self.run("verify", "-CAfile ca.pem -crl_check -CRLfile revoked.pem node.pem", in: good).hasSuffix("node.pem: OK\n"))
    try bench.authority.revoke("agent/vm1", at: Self.now)
    try NodeFolder(good).write(bench.authority.revocations(at: Self.now))
    let refusal = try await Self.run("verify", "-CAfile ca.pem -crl_check -CRLfile revoked.pem node.pem", in: good)
    #expect(refusal.contains("certificate revoked"), "\(refusal)")
  }

  /// A server of this identity; `body` is given its port, and what each connection's witness saw, in their order.
  static func listening<Result: Sendable>(
    _ identity: NodeIdentity, _ body: (Int, inout AsyncStream<Witness>.Iterator) async throws -> Result
  ) async throws -> Result {
    let (witnesses, sink) = AsyncStream<Witness>.makeStream()
    let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          let witness = Witness()
          sink.yield(witness)
          try identity.secure(channel.pipeline.syncOperations, as: .server, expecting: .client, clock: clock)
          try channel.pipeline.syncOperations.addHandlers([Hangup(), witness])
        }
      }
      .bind(host: "127.0.0.1", port: 0).get()
    var iterator = witnesses.makeAsyncIterator()
    let result = try await body(try #require(listener.localAddress?.port), &iterator)
    try await listener.close().get()
    return result
  }

  /// Connects once: what openssl printed, and what the server saw.
  static func connect(
    _ words: String, to port: Int, in folder: String, _ witnesses: inout AsyncStream<Witness>.Iterator
  ) async throws -> (client: String, server: [String]) {
    // -ign_eof: it ends when the server does, and not with its own input.
    let text = try await run("s_client", "-connect 127.0.0.1:\(port) -CAfile ca.pem -ign_eof \(words)", in: folder)
    let witness = try #require(await witnesses.next(), "no connection came: \(text)")
    return (text, await witness.until("data", "error", "closed"))
  }

  @Test("gets nowhere without a certificate, and is told so; with one it is let in")
  func client() async throws {
    let bench = try CertificateBench()
    let folder = try bench.node("client/desk")
    try await Self.listening(bench.identity("agent/vm1")) { port, witnesses in
      let stranger = try await Self.connect("", to: port, in: folder, &witnesses)
      #expect(stranger.server.count == 1 && stranger.server[0].contains("the peer showed no certificate"), "\(stranger.server)")
      #expect(stranger.client.contains("alert certificate required"), "\(stranger.client)")
      let node = try await Self.connect("-cert node.pem -key node.key", to: port, in: folder, &witnesses)
      #expect(node.server == ["peer client/desk", "data ping\n"])
      #expect(node.client.contains("hello") && node.client.contains("TLSv1.3"), "\(node.client)")
    }
  }

  @Test("is not let in with a session of earlier, for it could have been revoked since")
  func resumption() async throws {
    let bench = try CertificateBench()
    let folder = try bench.node("client/desk")
    try await Self.listening(bench.identity("agent/vm1")) { port, witnesses in
      let first = try await Self.connect("-cert node.pem -key node.key -sess_out session", to: port, in: folder, &witnesses)
      #expect(first.server == ["peer client/desk", "data ping\n"])
      let second = try await Self.connect("-cert node.pem -key node.key -sess_in session", to: port, in: folder, &witnesses)
      #expect(second.client.contains("Reused, TLSv1.3"), "the ticket was not used, so nothing is shown: \(second.client)")
      #expect(second.server.count == 1 && second.server[0].contains("resumes an earlier TLS session"), "\(second.server)")
    }
  }
}

/// Ends the connection when something has been said on it, so that openssl ends.
private final class Hangup: ChannelInboundHandler, Sendable {
  typealias InboundIn = ByteBuffer
  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    context.fireChannelRead(data)
    context.close(promise: nil)
  }
}
