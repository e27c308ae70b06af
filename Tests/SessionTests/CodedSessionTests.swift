import Agent
import CertificateSupport
import ChunkStores
import Client
import Foundation
import TestSupport
import Testing
import Vocabulary

/// Octets as programs log them: lines of words and numbers, which zstd makes a fraction of.
func lines(_ count: Int, seed: UInt64) -> [UInt8] {
  var random = SeededGenerator(seed: seed)
  var octets: [UInt8] = []
  while octets.count < count {
    octets += Array("level=info service=orders request=\(random.next() % 100_000) outcome=stored milliseconds=\(random.next() % 50)\n".utf8)
  }
  return Array(octets.prefix(count))
}

@Suite("The codec at the ends of a sealed session", .serialized, .timeLimit(.minutes(2)))
struct CodedSessionTests {
  /// A sealed session, with the settings of its ends changed.
  static func sealed(
    agent: (inout AgentSettings) -> Void = { _ in }, client: (inout ClientSettings) -> Void = { _ in },
    _ body: @escaping @Sendable (Road) async throws -> Void
  ) async throws {
    let authority = try TestAuthority()
    try await Road.with(
      agentCertificates: try authority.node("agent/vm"), clientCertificates: try authority.node("client/laptop"), agentSettings: agent,
      clientSettings: client, body)
    withExtendedLifetime(authority) {}
  }

  /// What a download costs on the carrier; its octets are compared.
  static func download(_ octets: [UInt8], over road: Road) async throws -> (sent: Int, returned: Int) {
    let before = road.wire.octets
    let got = try await road.send([1], octets)
    #expect(got.down == octets && got.up == [1])
    let after = road.wire.octets
    return (after.sent - before.sent, after.returned - before.returned)
  }

  @Test("sends what has gone by as names: the second download of 8 MiB costs less than a tenth")
  func secondPass() async throws {
    try await Self.sealed { road in
      let octets = pattern(8 << 20, seed: 3)
      let first = try await Self.download(octets, over: road)
      let second = try await Self.download(octets, over: road)
      #expect(first.returned > 8 << 20)
      // A hundredth on a quiet machine; on a busy one a held chunk's time may pass before the rest of it is read, and it goes out in full.
      #expect(second.sent + second.returned < (8 << 20) / 10, "\(second) octets")
    }
  }

  @Test("names what has come, too: 4 MiB go back at less than a tenth")
  func otherDirection() async throws {
    try await Self.sealed { road in
      let octets = pattern(4 << 20, seed: 4)
      _ = try await Self.download(octets, over: road)
      let before = road.wire.octets.sent
      let got = try await road.send(octets, [1])
      #expect(got.up == octets && got.down == [1])
      let cost = road.wire.octets.sent - before
      #expect(cost < (4 << 20) / 10, "\(cost) octets")
    }
  }

  @Test("shrinks text")
  func text() async throws {
    try await Self.sealed { road in
      let cost = try await Self.download(lines(1 << 20, seed: 5), over: road).returned
      #expect(cost < (1 << 20) / 3, "\(cost) octets")
    }
  }

  @Test("is not there in a session that is not sealed: that is for accelerators")
  func open() async throws {
    try await Road.with { road in
      let text = lines(500_000, seed: 6)
      for _ in 0..<2 {
        let cost = try await Self.download(text, over: road).returned
        #expect(cost > 500_000)
      }
    }
  }

  /// Questions and answers of these lengths, each of which waits for the one before.
  static func converse(_ lengths: [Int], over talk: SealedSessionTests.Talk) async throws {
    for (number, length) in lengths.enumerated() {
      let (question, answer) = (pattern(length, seed: UInt64(number)), pattern(length, seed: UInt64(number) + 1_000))
      async let asking: Void = onThread { try talk.application.write(question) }
      #expect(try await onThread { try talk.peer.read(exactly: length) } == question)
      try await asking
      async let answering: Void = onThread { try talk.peer.write(answer) }
      #expect(try await onThread { try talk.application.read(exactly: length) } == answer)
      try await answering
    }
  }

  @Test("keeps nothing back that somebody waits for, however long the message")
  func echo() async throws {
    try await Self.sealed { road in
      let talk = try await SealedSessionTests.Talk(over: road)
      for word in UInt8(0)..<20 { try await talk.say(word) }
      try await Self.converse([1, 17, 64, 65, 512, 2_048, 5_000, 16_384, 16_385, 32_768, 70_001, 300_000, 3, 1], over: talk)
      try await Self.converse([16_385, 70_001, 300_000, 5], over: talk)
    }
  }

  enum Lack: CaseIterable, Sendable { case agentsCodec, clientsCodec, agentsCache, clientsCache, both }

  @Test("does what the other end does", arguments: Lack.allCases)
  func lacking(_ lack: Lack) async throws {
    try await Self.sealed(
      agent: {
        if lack == .agentsCodec || lack == .both { $0.compresses = false }
        if lack == .agentsCache { $0.cache = .none }
      },
      client: {
        if lack == .clientsCodec || lack == .both { $0.compresses = false }
        if lack == .clientsCache { $0.cache = .none }
      }
    ) { road in
      let text = lines(600_000, seed: 7)
      let isCompressed = lack == .agentsCache || lack == .clientsCache
      for _ in 0..<2 {
        let cost = try await Self.download(text, over: road).returned
        #expect(isCompressed ? cost < 300_000 && cost > 10_000 : cost > 600_000, "\(cost) octets")
      }
    }
  }

  @Test("sends in full what the other end has forgotten")
  func forgotten() async throws {
    try await Self.sealed(client: { $0.cache = .memory(CacheSettings.smallest) }) { road in
      let octets = pattern(3 << 20, seed: 8)
      for _ in 0..<3 {
        let cost = try await Self.download(octets, over: road).returned
        #expect(cost > 2 << 20, "\(cost) octets")
      }
    }
  }

  @Test("loses and doubles nothing when carriers end in the middle of text and repeated octets, both ways")
  func moves() async throws {
    try await Self.sealed { road in
      let block = pattern(300_000, seed: 9)
      let down = block + lines(700_000, seed: 10) + block + pattern(500_000, seed: 11) + lines(700_000, seed: 10) + block
      let up = lines(400_000, seed: 12) + block + block + pattern(100_000, seed: 13) + block
      let talk = try await SealedSessionTests.Talk(over: road)
      for round in 0..<2 {
        async let writing: Void = onThread { try talk.peer.write(down) }
        async let sending: Void = onThread { try talk.application.write(up) }
        async let gettingUp: [UInt8] = onThread { try talk.peer.read(exactly: up.count) }
        var got: [UInt8] = []
        // The reader sets the pace, so that each cut comes while octets are under way.
        for cut in 1...5 {
          let share = down.count / 6
          got += try await onThread { try talk.application.read(exactly: share) }
          road.wire.cut()
          try road.wire.waitForAccepted(1 + 5 * round + cut)
        }
        let rest = down.count - got.count
        got += try await onThread { try talk.application.read(exactly: rest) }
        #expect(got == down)
        #expect(try await gettingUp == up)
        _ = try await (writing, sending)
      }
      try await talk.say(1)
    }
  }

  @Test("goes on from nothing when the agent has been started again between two passes")
  func restart() async throws {
    let authority = try TestAuthority()
    let (agentFolder, clientFolder) = (try authority.node("agent/vm"), try authority.node("client/laptop"))
    let keyFile = try Road.keyFile()
    defer { try? FileManager.default.removeItem(atPath: keyFile) }
    let first = try await RestartTests.startAgent(at: Endpoint("127.0.0.1:0")!, keyFile: keyFile, certificates: agentFolder)
    let wire = try Wire(to: first.at.port)
    var logger = Road.quiet
    logger.logLevel = .critical
    let client = ClientService(
      settings: ClientSettings(
        node: "client", machines: [.init(name: "vm", agent: Endpoint("127.0.0.1:\(wire.port)")!)], certificates: clientFolder,
        socks: Endpoint("127.0.0.1:0")!), logger: logger)
    let (ready, isReady) = AsyncStream.makeStream(of: ClientEntrances.self)
    let running = Task { try await client.run { isReady.yield($0) } }
    var entrances = ready.makeAsyncIterator()
    let socks = try #require(await entrances.next()?.socks).port
    let octets = pattern(1 << 20, seed: 14)

    func pass() async throws {
      let (service, port) = try Socket.listen()
      let application = try await RestartTests.openFlow(socks, to: port)
      let peer = try await onThread { try service.accept() }
      async let writing: Void = onThread {
        try peer.write(octets)
        peer.endOutput()
      }
      #expect(try await onThread { try application.readToEnd() } == octets)
      try await writing
    }
    try await pass()
    wire.setDown(true)
    first.task.cancel()
    try? await first.task.value
    let second = try await RestartTests.startAgent(at: first.at, keyFile: keyFile, certificates: agentFolder)
    wire.setDown(false)
    try await pass()
    let before = wire.octets.returned
    try await pass()
    #expect(wire.octets.returned - before < 100_000)
    running.cancel()
    second.task.cancel()
    try? await running.value
    try? await second.task.value
  }

  @Test("lets streams begin anew: many short flows of the same octets, one after another")
  func manyFlows() async throws {
    try await Self.sealed { road in
      let octets = pattern(40_000, seed: 15)
      for _ in 0..<60 {
        let got = try await road.send(octets, octets)
        #expect(got.up == octets && got.down == octets)
      }
    }
  }

  @Test("codes some of many flows at once, and carries all of them")
  func manyAtOnce() async throws {
    try await Self.sealed { road in
      let text = lines(60_000, seed: 16)
      try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<100 {
          group.addTask {
            let got = try await road.send(text, text)
            #expect(got.up == text && got.down == text)
          }
        }
        try await group.waitForAll()
      }
    }
  }

  @Test("keeps a reset a reset, and the session goes on")
  func reset() async throws {
    try await Self.sealed { road in
      for round in 0..<10 {
        let talk = try await SealedSessionTests.Talk(over: road)
        try await talk.say(1)
        async let writing: Bool = onThread { (try? talk.peer.write(lines(3_000_000, seed: 17))) == nil }
        _ = try await onThread { try talk.application.read(exactly: 10_000) }
        if round % 2 == 0 {
          talk.application.reset()
          _ = try await writing
          #expect(try await onThread { try talk.peer.endsWithReset() })
        } else {
          talk.peer.reset()
          _ = try await writing
          #expect(try await onThread { try talk.application.endsWithReset() })
        }
      }
      let cost = try await Self.download(lines(100_000, seed: 18), over: road).returned
      #expect(cost < 50_000, "\(cost) octets")
    }
  }
}
