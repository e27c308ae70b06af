import Carriers
import NIOCore
import NIOPosix
import SCTP
import Testing
import Vocabulary

@Suite(
  "A session with usrsctp moves from one link to another while messages go both ways", .serialized,
  .enabled(if: Usrsctp.isInstalled, "libusrsctp-dev is not installed: scripts/setup brings it"),
  .enabled(if: mayMakeNamespaces, "needs root, for network namespaces"))
struct MoveTests {
  static let key: [UInt8] = Array("a key for two links".utf8)
  static let udp: UInt16 = 9_899
  /// 1,500 messages, one a millisecond: the move comes after a third of them.
  static let count = 1_500

  enum Order: String, CaseIterable, Sendable { case announced, unplanned }

  static func configuration(_ addresses: [IPAddress]) -> AssociationConfiguration {
    var configuration = Trial.configuration(key: key, keyIdentifier: 7, port: 7_601, peerPort: 7_600)
    configuration.localAddresses = addresses
    return configuration
  }

  static func peerOptions(_ addresses: [IPAddress]) -> [String] {
    [
      "--udp", "\(udp)", "--remote-udp", "\(udp)", "--port", "7600", "--remote-port", "7601", "--local",
      addresses.map { "\($0)" }.joined(separator: ","), "--key",
      key.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined(), "--key-id", "7",
    ]
  }

  /// Our trial, with a socket for each of our addresses.
  static func trial(on links: TwoLinks, addresses: [IPAddress], isListening: Bool) async throws -> NIOLoopBound<Trial> {
    let loop = links.loop
    let (bound, ready) = try await loop.submit {
      let trial = Trial(configuration(addresses), isListening: isListening, loop: loop)
      trial.interval = .milliseconds(1)
      let ready = TwoLinks.ours.map { trial.endpoint.bind(Endpoint(address: $0, port: udp)) }
      return (NIOLoopBound(trial, eventLoop: loop), ready)
    }.get()
    for each in ready { _ = try await each.get() }
    return bound
  }

  static func finish(_ what: String, _ trial: NIOLoopBound<Trial>, _ peer: Peer, _ links: TwoLinks) async throws {
    let line = try #require(await peer.line("ok \(count) messages"), "\(peer.complaints)")
    #expect(await peer.status() == 0, "\(peer.complaints)")
    let report = try await links.loop.submit {
      trial.value.endpoint.close()
      return trial.value.report
    }.get()
    #expect(line.hasPrefix("ok \(count) messages, sent \(report.received), received \(report.sent), "))
    #expect(report.events.contains { $0.hasPrefix("moved") }, "\(report.events)")
    print("\(what): no message came for \(Int(report.gap.seconds * 1_000)) ms at most; usrsctp says \(line)")
  }

  static func move(_ order: Order, _ trial: NIOLoopBound<Trial>, _ links: TwoLinks) async throws {
    if order == .unplanned { try links.cut() }
    let moved = try await links.loop.submit {
      if let id = trial.value.association {
        trial.value.endpoint.move(id, from: TwoLinks.ours[1], to: Endpoint(address: TwoLinks.theirs[1], port: udp))
      }
      return trial.value.wait(for: "the move") { if case .moved = $0 { true } else { false } }
    }.get()
    try await moved.get()
    if order == .announced { try links.cut() }
  }

  /// Our end begins the association, or usrsctp's does; after a third of the messages `move` is done.
  static func run(
    _ what: String, weBegin: Bool, ours: [IPAddress], theirs: [IPAddress],
    move: (NIOLoopBound<Trial>, Peer, TwoLinks) async throws -> Void
  ) async throws {
    let links = try await TwoLinks()
    do {
      let trial = try await trial(on: links, addresses: ours, isListening: !weBegin)
      let third = try await links.loop.submit { trial.value.wait(forMessages: count / 3) }.get()
      let role =
        weBegin
        ? ["echo"]
        : [
          "client", "--remote", "\(TwoLinks.ours[0])", "--sizes", "1000", "--count", "\(count)", "--every", "1000",
          "--streams", "4",
        ]
      let peer = try Peer(role + peerOptions(theirs), in: links.there)
      defer { peer.stop() }
      if weBegin {
        try #require(await peer.line("listening") != nil, "\(peer.complaints)")
        try await links.loop.submit {
          trial.value.run(
            TrialMessage.list(Array(repeating: 1_000, count: count), streams: 4), from: TwoLinks.ours[0],
            to: Endpoint(address: TwoLinks.theirs[0], port: udp))
        }.get()
      }
      try await third.get()
      try await move(trial, peer, links)
      try await finish(what, trial, peer, links)
    } catch {
      await links.remove()
      throw error
    }
    await links.remove()
  }

  @Test("we move, whoever began", arguments: Order.allCases, [true, false])
  func weMove(order: Order, weBegin: Bool) async throws {
    try await Self.run(
      "\(weBegin ? "we" : "usrsctp") began, we move, \(order)", weBegin: weBegin, ours: [TwoLinks.ours[0]], theirs: TwoLinks.theirs
    ) { trial, _, links in try await Self.move(order, trial, links) }
  }

  @Test("usrsctp moves, whoever began", arguments: [true, false])
  func peerMoves(weBegin: Bool) async throws {
    try await Self.run(
      "\(weBegin ? "we" : "usrsctp") began, usrsctp moves", weBegin: weBegin, ours: TwoLinks.ours, theirs: [TwoLinks.theirs[0]]
    ) { trial, peer, links in try await Self.peerMoves(peer, trial, links) }
  }

  /// usrsctp announces its second address, asks for its data there, sends to our second one, and takes the first one back; then the first link is cut.
  static func peerMoves(_ peer: Peer, _ trial: NIOLoopBound<Trial>, _ links: TwoLinks) async throws {
    func wait(_ what: String, _ isOver: @escaping @Sendable (Effect) -> Bool, after command: String) async throws {
      let event = try await links.loop.submit { trial.value.wait(for: what, isOver) }.get()
      if let failure = await peer.tell(command) { throw TrialError(description: failure) }
      try await event.get()
    }
    let (old, new) = (TwoLinks.theirs[0], TwoLinks.theirs[1])
    try await wait("its new address", { if case .peerAnnounced(new) = $0 { true } else { false } }, after: "add \(new)")
    // Its HEARTBEATs to our second address were dropped as long as we did not know the address that they come from.
    if let failure = await peer.tell("ask \(TwoLinks.ours[1])") { throw TrialError(description: failure) }
    try #require(await peer.line("event confirmed \(TwoLinks.ours[1])") != nil)
    try await wait("the move", { if case .moved = $0 { true } else { false } }, after: "peer-primary \(new)")
    if let failure = await peer.tell("primary \(TwoLinks.ours[1])") { throw TrialError(description: failure) }
    try await wait("the end of its old address", { if case .peerWithdrew(old) = $0 { true } else { false } }, after: "delete \(old)")
    try links.cut()
  }
}
