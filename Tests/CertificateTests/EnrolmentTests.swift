import Certificates
import Enrolment
import Foundation
import Logging
import NIOCore
import NIOPosix
import NIOSSL
import Sockets
import Testing
import Vocabulary

@Suite("Enrolment over the network")
struct EnrolmentTests {
  static let now = CertificateBench.now
  static let day = CertificateBench.day
  static let clock: @Sendable () -> Date = { CertificateBench.now }

  /// Runs `body` beside the endpoint of this CA.
  static func served<Result: Sendable>(
    _ bench: CertificateBench, clock: @escaping @Sendable () -> Date = clock, connectionLimit: TimeAmount = EnrolmentLimits.connectionLimit,
    _ body: (Location) async throws -> Result
  ) async throws -> Result {
    var logger = Logger(label: "enrolment")
    logger.logLevel = .critical
    let server = try EnrolmentServer(authority: bench.authority, logger: logger, connectionLimit: connectionLimit, clock: clock)
    let (places, sink) = AsyncStream<Endpoint>.makeStream()
    let task = Task { try await server.run(listen: Endpoint("127.0.0.1:0")!) { sink.yield($0) } }
    defer { task.cancel() }
    var iterator = places.makeAsyncIterator()
    let place = try #require(await iterator.next())
    return try await body(Location(place))
  }

  static func refusal(_ body: () async throws -> Void) async -> String {
    do { try await body() } catch { return "\(error)" }
    return "no error"
  }

  @Test("a token makes a node of an empty folder; its key is the owner's alone")
  func enrol() async throws {
    let bench = try CertificateBench()
    let folder = bench.folder + "/new/vm1"
    let token = try bench.authority.makeToken(role: .agent, name: "vm1", at: Self.now)
    let name = try #require(NodeName("agent/vm1"))
    try await Self.served(bench) { place in
      let client = EnrolmentClient(place, clock: Self.clock)
      #expect(
        await Self.refusal { try await client.enrol(token, as: NodeName("agent/vm2")!, into: NodeFolder(folder)) }.contains("agent/vm1"))
      #expect(!FileManager.default.fileExists(atPath: folder))
      try await client.enrol(token, as: name, into: NodeFolder(folder))
      let identity = try NodeIdentity(directory: folder)
      #expect(identity.name == name && identity.warnings(at: Self.now).isEmpty)
      #expect(try CertificateBench.mode(folder + "/node.key") == 0o600)
      // Refused here, before the token would be spent; and then by the CA, for it was.
      #expect(await Self.refusal { try await client.enrol(token, as: name, into: NodeFolder(folder)) }.contains("is there already"))
      let used = await Self.refusal { try await client.enrol(token, as: name, into: NodeFolder(folder), overwrite: true) }
      #expect(used.contains("it was used on") && used.contains("\(place)"), "\(used)")
      #expect(try NodeIdentity(directory: folder).certificate == identity.certificate)
    }
  }

  @Test("the token is sent to no one who does not show its CA")
  func otherCA() async throws {
    let bench = try CertificateBench()
    let other = try CertificateBench()
    let token = try bench.authority.makeToken(role: .agent, name: "vm1", at: Self.now)
    try await Self.served(other) { place in
      let refusal = await Self.refusal {
        try await EnrolmentClient(place, clock: Self.clock).enrol(token, as: NodeName("agent/vm1")!, into: NodeFolder(bench.folder + "/x"))
      }
      #expect(refusal.contains("nothing was sent"), "\(refusal)")
    }
    // A node of the right CA cannot pose as its endpoint: its role is another. It shows the CA's certificate, as an impostor would.
    let impostor = try bench.node("controller/brain")
    let lines = try await TLSTests.meet(
      server: { channel in
        let chain = try ["node.pem", "ca.pem"].flatMap { try NIOSSLCertificate.fromPEMFile("\(impostor)/\($0)") }
        let key = try NIOSSLPrivateKey(bytes: Array(Data(contentsOf: URL(fileURLWithPath: impostor + "/node.key"))), format: .pem)
        let configuration = TLSConfiguration.makeServerConfiguration(
          certificateChain: chain.map { .certificate($0) }, privateKey: .privateKey(key))
        try channel.pipeline.syncOperations.addHandler(NIOSSLServerHandler(context: NIOSSLContext(configuration: configuration)))
      },
      client: { channel in
        try Stranger.secure(channel.pipeline.syncOperations, fingerprint: token.fingerprint, clock: Self.clock)
      })
    #expect(lines.client == ["error the peer is controller/brain, where an authority is expected"])
    // And the token is as good as before.
    try await Self.served(bench) { place in
      _ = try await EnrolmentClient(place, clock: Self.clock).enrol(
        token, as: NodeName("agent/vm1")!, into: NodeFolder(bench.folder + "/x"))
    }
  }

  @Test("a node renews with the certificate that it has, and gets a new key; not when it has been revoked")
  func renew() async throws {
    let bench = try CertificateBench()
    let folder = try bench.node("agent/vm1")
    let before = try NodeIdentity(directory: folder).certificate
    let later: @Sendable () -> Date = { Self.now + 61 * Self.day }
    try await Self.served(bench, clock: later) { place in
      let client = EnrolmentClient(place, clock: later)
      try await client.renew(NodeFolder(folder))
      let renewed = try NodeIdentity(directory: folder)
      #expect(renewed.notAfter == Self.now + 151 * Self.day && renewed.certificate.name == before.name)
      #expect(renewed.certificate.serial != before.serial)
      #expect(try CertificateBench.mode(folder + "/node.key") == 0o600)
      try bench.authority.revoke("agent/vm1", at: later())
      let refusal = await Self.refusal { try await client.renew(NodeFolder(folder)) }
      #expect(refusal.contains("agent/vm1 was revoked on"), "\(refusal)")
      #expect(try NodeIdentity(directory: folder).certificate == renewed.certificate)
    }
    let tooLate = await Self.refusal {
      try await EnrolmentClient(Location(host: "127.0.0.1", port: 9), clock: { Self.now + 200 * Self.day }).renew(NodeFolder(folder))
    }
    #expect(tooLate.contains("too late to renew"), "\(tooLate)")
  }

  @Test("revocations are fetched, written once, and believed of the CA alone")
  func revocations() async throws {
    let bench = try CertificateBench()
    let folder = NodeFolder(try bench.node("client/desk"))
    let lost = try bench.identity("agent/lost")
    try bench.authority.revoke("agent/lost", at: Self.now)
    try await Self.served(bench) { place in
      let client = EnrolmentClient(place, clock: Self.clock)
      let first = try await client.fetchRevocations(into: folder)
      #expect(first.isNew && first.list.entries.map(\.serial) == [lost.certificate.serial])
      #expect(try await !client.fetchRevocations(into: folder).isNew)
    }
    let identity = try NodeIdentity(directory: folder.directory)
    #expect(words { _ = try identity.verify(lost.certificate.der, expecting: .agent(nil), at: Self.now) }.contains("revoked"))
    try await Self.served(CertificateBench()) { place in
      let refusal = await Self.refusal { _ = try await EnrolmentClient(place, clock: Self.clock).fetchRevocations(into: folder) }
      #expect(refusal.contains("does not show the CA"), "\(refusal)")
    }
  }

  @Test("a node keeps itself fresh: it renews when a third of its certificate's life is left, and fetches what is newer")
  func upkeep() async throws {
    let bench = try CertificateBench()
    let folder = try bench.node("agent/vm1", revocations: bench.authority.revocations(at: Self.now))
    for (days, isDue) in [(59.0, false), (61, true), (62, false)] {
      let clock: @Sendable () -> Date = { Self.now + days * Self.day }
      _ = try bench.node("client/desk\(Int(days))", at: clock())
      try bench.authority.revoke("client/desk\(Int(days))", at: clock())
      try await Self.served(bench, clock: clock) { place in
        let upkeep = IdentityUpkeep(place, directory: folder, logger: Logger(label: "upkeep"), clock: clock)
        let round = try await upkeep.refresh()
        #expect((round.renewed != nil) == isDue)
        // A renewal brings the list with it.
        #expect((round.revocations != nil) == !isDue)
        #expect(try await upkeep.refresh().revocations == nil)
      }
      let identity = try NodeIdentity(directory: folder)
      #expect(identity.trust.revocations?.entries.count == (days == 59 ? 1 : days == 61 ? 2 : 3))
      #expect(identity.notAfter == Self.now + (days == 59 ? 90 : 151) * Self.day)
    }
  }

  @Test("an endpoint that is not there is an error that says where")
  func away() async throws {
    let bench = try CertificateBench()
    let folder = NodeFolder(try bench.node("client/desk"))
    // A port that was free a moment ago.
    let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton).bind(host: "127.0.0.1", port: 0).get()
    let place = Location(try #require(listener.localAddress?.vocabulary))
    try await listener.close().get()
    let refusal = await Self.refusal { _ = try await EnrolmentClient(place, clock: Self.clock).fetchRevocations(into: folder) }
    #expect(refusal.contains("enrolment endpoint \(place)"), "\(refusal)")
  }

  @Test("more connections than the limit are closed at once, and room comes back with each that ends")
  func crowd() async throws {
    let bench = try CertificateBench()
    let folder = NodeFolder(try bench.node("client/desk"))
    try await Self.served(bench) { place in
      var idle: [any Channel] = []
      for _ in 0..<EnrolmentLimits.connections {
        idle.append(
          try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(host: place.host, port: Int(place.port)).get())
      }
      // The endpoint takes connections in their order, so these have their places.
      let client = EnrolmentClient(place, clock: Self.clock)
      #expect(await Self.refusal { _ = try await client.fetchRevocations(into: folder) } != "no error")
      for channel in idle { try await channel.close().get() }
      // It hears of each end in its own time.
      var refusal = ""
      for _ in 0..<1_000 where refusal != "no error" {
        refusal = await Self.refusal { _ = try await client.fetchRevocations(into: folder) }
      }
      #expect(refusal == "no error")
    }
  }

  /// What the endpoint answers to these octets inside TLS, until it closes.
  static func talk(
    _ bench: CertificateBench, _ text: String, connectionLimit: TimeAmount = EnrolmentLimits.connectionLimit
  ) async throws -> String {
    let octets = ByteBuffer(string: text)
    return try await served(bench, connectionLimit: connectionLimit) { place in
      let heard = Witness()
      let fingerprint = bench.authority.certificate.fingerprintOctets
      let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try Stranger.secure(channel.pipeline.syncOperations, fingerprint: fingerprint, clock: clock)
            try channel.pipeline.syncOperations.addHandler(Speaker(octets))
            try channel.pipeline.syncOperations.addHandler(heard)
          }
        }
        .connect(host: place.host, port: Int(place.port)).get()
      let lines = await heard.until("closed")
      channel.close(promise: nil)
      let answer = lines.filter { $0.hasPrefix("data ") }.map { $0.dropFirst(5) }.joined()
      return answer.isEmpty ? lines.last ?? "" : answer
    }
  }

  @Test("who begins a request and does not end it is hung up on")
  func slow() async throws {
    let bench = try CertificateBench()
    let half = "POST /v1/enrol HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    #expect(try await Self.talk(bench, half, connectionLimit: .milliseconds(300)) == "closed")
  }

  @Test("garbage, other paths and requests without end are answered with an error and the end of the connection")
  func garbage() async throws {
    let bench = try CertificateBench()
    func post(_ path: String, _ body: String) -> String {
      "POST \(path) HTTP/1.1\r\nhost: x\r\ncontent-length: \(body.utf8.count)\r\n\r\n\(body)"
    }
    let cases: [(String, status: String, word: String)] = [
      ("GET / HTTP/1.1\r\nhost: x\r\n\r\n", "404", "there is nothing at GET"), ("nonsense\r\n\r\n", "400", ""),
      (post("/v1/enrol", "{"), "400", "not the JSON"), (post("/v1/enrol", "{\"request\":\"x\"}"), "403", "not a token"),
      (post("/v1/renew", "{\"request\":\"x\"}"), "403", "no certificate"),
      (post("/v1/enrol", String(repeating: "x", count: 20_000)), "413", "16384 octets"),
      (
        "POST /v1/enrol HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
          + String(repeating: "400\r\n" + String(repeating: "y", count: 1024) + "\r\n", count: 17), "413", "16384 octets"
      ),
    ]
    for (text, status, word) in cases {
      let answer = try await Self.talk(bench, text)
      #expect(answer.hasPrefix("HTTP/1.1 \(status)") && (word.isEmpty || answer.contains(word)), "\(text.prefix(40)): \(answer)")
    }
    #expect(try bench.authority.issued().isEmpty)
  }
}

/// Says its piece once the other end has been admitted.
private final class Speaker: ChannelInboundHandler, Sendable {
  typealias InboundIn = ByteBuffer
  private let octets: ByteBuffer
  init(_ octets: ByteBuffer) { self.octets = octets }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if event is PeerAdmitted { context.writeAndFlush(NIOAny(octets), promise: nil) }
  }
}
