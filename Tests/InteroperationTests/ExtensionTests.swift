import Carriers
import NIOCore
import SCTP
import Testing
import Vocabulary

@Suite(
  "usrsctp and the extensions", .serialized, .enabled(if: Usrsctp.isInstalled, "libusrsctp-dev is not installed: scripts/setup brings it"))
struct ExtensionTests {
  // MARK: Stream reset (RFC 6525)

  /// Four messages on each of four streams, then the reset, then four more: their sequence numbers begin anew on the streams that were reset, and go on on the others.
  static func reset(
    _ direction: String, _ body: @escaping @Sendable (NIOLoopBound<Trial>, Peer) async throws -> EventLoopFuture<Void>?
  ) async throws {
    let first = TrialMessage.list(Array(repeating: 1_000, count: 16), streams: 4)
    let meeting = Meeting(
      prepare: { $0.keepsOpen = true },
      during: { trial, peer in
        let loop = trial.eventLoop
        try await loop.submit { trial.value.wait(forMessages: first.count) }.get().get()
        let event = try await body(trial, peer)
        for stream in streams {
          try #require(await peer.line("event reset \(direction) \(stream)") != nil, "\(peer.said) \(peer.complaints)")
        }
        try await event?.get()
        try await loop.submit {
          trial.value.keepsOpen = false
          trial.value.more(TrialMessage.list(Array(repeating: 1_000, count: 16), streams: 4))
        }.get()
      })
    let result = try await meeting.connect(first)
    #expect(result.report.sent.messages == 32)
    #expect(result.relay.chunks.contains(130))
  }

  static func wait(for direction: StreamDirection, _ trial: NIOLoopBound<Trial>, after body: @escaping @Sendable (Trial) -> Void)
    async throws
    -> EventLoopFuture<Void>
  {
    try await trial.eventLoop.submit {
      let future = trial.value.wait(for: "the reset of streams") { if case .streamsReset(direction, _) = $0 { true } else { false } }
      body(trial.value)
      return future
    }.get()
  }

  static let streams = [StreamID(1), StreamID(3)]

  @Test("our streams are reset because we say so, and usrsctp hears of it")
  func ours() async throws {
    try await Self.reset("incoming") { trial, _ in
      try await Self.wait(for: .outgoing, trial) { trial in
        if let id = trial.association { trial.endpoint.tell(id) { association, _ in _ = association.resetStreams(Self.streams) } }
      }
    }
  }

  @Test("our streams are reset because usrsctp asks for it")
  func oursAsked() async throws {
    try await Self.reset("incoming") { trial, peer in
      let event = try await Self.wait(for: .outgoing, trial) { _ in }
      #expect(await peer.tell("reset-in 1,3") == nil)
      return event
    }
  }

  @Test("usrsctp's streams are reset because it says so, and we hear of it")
  func theirs() async throws {
    try await Self.reset("outgoing") { trial, peer in
      let event = try await Self.wait(for: .incoming, trial) { _ in }
      #expect(await peer.tell("reset-out 1,3") == nil)
      return event
    }
  }

  @Test("usrsctp's streams are reset because we ask for it")
  func theirsAsked() async throws {
    try await Self.reset("outgoing") { trial, _ in
      try await Self.wait(for: .incoming, trial) { trial in
        if let id = trial.association { trial.endpoint.tell(id) { association, _ in _ = association.askToReset(Self.streams) } }
      }
    }
  }

  // MARK: I-DATA (RFC 8260)

  /// Large ones and small ones beside each other.
  static let mixed = [200_000, 10, 100_000, 10, 65_536, 10, 1_000, 10, 150_000, 10, 10]

  static func interleaving(_ faults: Faults = .none, isUnordered: Bool = false) -> Meeting {
    Meeting(faults: faults, options: ["--idata"], isUnordered: isUnordered, offer: { $0.interleaving = true })
  }

  @Test("messages interleave (I-DATA), ordered and unordered; we connect", arguments: [false, true])
  func interleavedOut(isUnordered: Bool) async throws {
    let result = try await Self.interleaving(isUnordered: isUnordered).connect(
      TrialMessage.list(Self.mixed, streams: 6, isUnordered: isUnordered))
    #expect(result.relay.chunks.contains(64) && !result.relay.chunks.contains(0))
  }

  @Test("messages interleave (I-DATA), ordered and unordered; usrsctp connects", arguments: [false, true])
  func interleavedIn(isUnordered: Bool) async throws {
    let result = try await Self.interleaving(isUnordered: isUnordered).accept(sizes: Self.mixed, streams: 6)
    #expect(result.relay.chunks.contains(64) && !result.relay.chunks.contains(0))
  }

  @Test("messages interleave (I-DATA) through a network that loses, doubles, corrupts and reorders")
  func interleavedFaults() async throws {
    let result = try await Self.interleaving(.all).connect(TrialMessage.list(Self.mixed, streams: 6))
    #expect(result.relay.lost > 0 && result.relay.chunks.contains(64))
    try await Self.interleaving(.all).accept(sizes: Self.mixed, streams: 6)
  }

  @Test("one side alone offers I-DATA: DATA it is", arguments: [true, false])
  func withoutInterleaving(isOurs: Bool) async throws {
    let result = try await Meeting(options: isOurs ? [] : ["--idata"], offer: { $0.interleaving = isOurs }).connect(
      TrialMessage.list(Self.mixed, streams: 6))
    #expect(result.relay.chunks.contains(0) && !result.relay.chunks.contains(64))
  }

  // MARK: Partial reliability (RFC 3758)

  /// Some hundred messages through a bad network, none of which is worth a second try: what is not given up arrives, and the association goes on to its good end.
  static let count = 300

  @Test("messages of ours that are not worth another try, or are too old, are given up", arguments: [false, true])
  func givenUp(isTimed: Bool) async throws {
    let meeting = Meeting(
      faults: .loss,
      prepare: { trial in
        trial.echoes = false
        if isTimed { trial.interval = .milliseconds(1) }
        trial.reliability = { isTimed ? .until(SessionDriver.now() + .milliseconds(2 as Int64)) : .retransmissions(0) }
      }, mayLose: true, roles: ("sink", "source"))
    let result = try await meeting.connect(TrialMessage.list(Array(repeating: 1_000, count: Self.count), streams: 4))
    let abandoned = result.report.events.count { $0.hasPrefix("abandoned") }
    #expect(abandoned > 0)
    #expect(result.peerMessages < Self.count)
    #expect(result.peerMessages + abandoned >= Self.count)
    #expect(result.relay.chunks.contains(192))
  }

  @Test("messages of usrsctp's that are not worth another try, or are too old, are given up", arguments: ["--rtx", "--ttl"])
  func theirsGivenUp(policy: String) async throws {
    let meeting = Meeting(
      faults: .loss, options: policy == "--rtx" ? ["--rtx", "1"] : ["--ttl", "2", "--every", "1000"],
      prepare: { $0.echoes = false }, mayLose: true, roles: ("sink", "source"))
    let result = try await meeting.accept(sizes: [1_000], rounds: Self.count, streams: 4)
    let abandoned = result.peer.count { $0 == "event abandoned" }
    #expect(abandoned > 0)
    #expect(result.report.received.messages < Self.count)
    #expect(result.report.received.messages + abandoned >= Self.count)
    #expect(result.relay.chunks.contains(192))
  }
}
