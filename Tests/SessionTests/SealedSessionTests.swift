import Agent
import CertificateSupport
import Client
import Foundation
import TestSupport
import Testing
import Vocabulary

@Suite("A sealed session", .serialized, .timeLimit(.minutes(2)))
struct SealedSessionTests {
  static func contains(_ haystack: [UInt8], _ needle: [UInt8]) -> Bool {
    guard haystack.count >= needle.count else { return false }
    return (0...(haystack.count - needle.count)).contains {
      haystack[$0] == needle[0] && haystack[$0..<($0 + needle.count)].elementsEqual(needle)
    }
  }

  @Test("carries octets both ways, and nobody between sees one of them")
  func sealed() async throws {
    let authority = try TestAuthority()
    let (agent, client) = (try authority.node("agent/vm"), try authority.node("client/laptop"))
    try await Road.with(agentCertificates: agent, clientCertificates: client) { road in
      let (up, down) = (pattern(300_000, seed: 1), pattern(300_000, seed: 2))
      let got = try await road.send(up, down)
      #expect(got.up == up && got.down == down)
      let heard = road.wire.heard
      #expect(heard.sent.joined().count > 300_000 && heard.returned.count > 300_000)
      for start in stride(from: 0, to: 300_000 - 16, by: 30_000) {
        #expect(!Self.contains(Array(heard.sent.joined()), Array(up[start..<(start + 16)])))
        #expect(!Self.contains(heard.returned, Array(down[start..<(start + 16)])))
      }
    }
  }

  /// An application and a service that say something to each other now and then.
  struct Talk: Sendable {
    let application: Socket
    let peer: Socket

    init(over road: Road) async throws {
      let (service, port) = try Socket.listen()
      let application = try Socket.connect(road.socks)
      let reply = try await onThread { try application.socks(to: "vm", port) }
      #expect(reply == 0)
      self.application = application
      peer = try await onThread { try service.accept() }
    }

    func say(_ word: UInt8) async throws {
      let (application, peer) = (self.application, self.peer)
      try application.write([word])
      #expect(try await onThread { try peer.read(exactly: 1) } == [word])
      try peer.write([word])
      #expect(try await onThread { try application.read(exactly: 1) } == [word])
    }
  }

  @Test("goes on over a later carrier with no handshake, which cannot be played again")
  func laterCarrier() async throws {
    let authority = try TestAuthority()
    let (agent, client) = (try authority.node("agent/vm"), try authority.node("client/laptop"))
    let lines = LogLines()
    try await Road.with(agentCertificates: agent, clientCertificates: client, logger: lines.logger()) { road in
      let talk = try await Talk(over: road)
      try await talk.say(1)
      road.wire.cut()
      try await talk.say(2)
      let heard = road.wire.heard
      try #require(heard.sent.count == 2)
      #expect(heard.sent[0].first == 0x16)
      #expect(heard.sent[1].prefix(4) == [0x4c, 0x48, 0x53, 0x31])  // "LHS1"

      let replay = try Socket.connect(road.agentPort)
      try replay.write(heard.sent[1])
      #expect(try await onThread { try replay.readToEnd() } == [])
      #expect(lines.has("has been used"))
      try await talk.say(3)
    }
  }

  @Test("is not ended by a forged word that the agent does not know it")
  func forgedNotice() async throws {
    let authority = try TestAuthority()
    let (agent, client) = (try authority.node("agent/vm"), try authority.node("client/laptop"))
    try await Road.with(agentCertificates: agent, clientCertificates: client) { road in
      let talk = try await Talk(over: road)
      road.wire.setForging(true)
      road.wire.cut()
      try await talk.say(1)
      #expect(road.wire.accepted >= 3)  // the first, the forged one, and what followed
    }
  }

  @Test("begins anew when the agent, started again, says inside TLS that it does not know it")
  func restart() async throws {
    let authority = try TestAuthority()
    try await RestartTests.restart(
      agentCertificates: try authority.node("agent/vm"), clientCertificates: try authority.node("client/laptop"))
  }

  /// What the client says when it gives up, and what the agent has logged.
  static func refusal(agent: String?, client: String?) async throws -> (client: String, agent: LogLines) {
    let lines = LogLines()
    do {
      try await Road.with(agentCertificates: agent, clientCertificates: client, logger: lines.logger()) { _ in
        Issue.record("a session came up")
      }
    } catch let error as ClientError {
      if case .anotherCertificate = error { throw error }
      return ("\(error)", lines)
    }
    return ("", lines)
  }

  @Test("is refused to a client without certificates, and the agent's log says why")
  func noCertificates() async throws {
    let authority = try TestAuthority()
    let refused = try await Self.refusal(agent: try authority.node("agent/vm"), client: nil)
    #expect(refused.agent.has("the client has no certificates, and this agent wants them"))
    #expect(refused.client.contains("no agent of machine vm answers"))
  }

  @Test("is refused to a client of another CA; a client does not begin with the certificate of another node")
  func wrongClients() async throws {
    let authority = try TestAuthority()
    let other = try TestAuthority()
    let stranger = try await Self.refusal(agent: try authority.node("agent/vm"), client: try other.node("client/laptop"))
    #expect(stranger.client.contains("no sealed session with machine vm") && stranger.client.contains("CA"), "\(stranger.client)")
    await #expect {
      try await Self.refusal(agent: try authority.node("agent/vm"), client: try authority.node("accelerator/a"))
    } throws: {
      "\($0)".contains("accelerator/a")
    }
    withExtendedLifetime(other) {}
  }

  @Test("is refused to a client whose certificate has been revoked")
  func revoked() async throws {
    let authority = try TestAuthority()
    let client = try authority.node("client/laptop")
    _ = try authority.authority.revoke("client/laptop")
    let refused = try await Self.refusal(agent: try authority.node("agent/vm"), client: client)
    #expect(refused.client.contains("no sealed session with machine vm"), "\(refused.client)")
    #expect(refused.agent.has("revoked"), "\(refused.agent.all)")
  }

  @Test("is not opened with an agent of another machine")
  func wrongAgent() async throws {
    let authority = try TestAuthority()
    let lines = LogLines()
    let agent = AgentService(
      settings: AgentSettings(
        listen: Endpoint("127.0.0.1:0")!, keyFile: try Road.keyFile(), certificates: try authority.node("agent/other"), machine: "vm"),
      logger: lines.logger())
    await #expect { try await agent.run() } throws: { "\($0)".contains("agent/other") && "\($0)".contains("--machine") }
  }
}
