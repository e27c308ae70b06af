import SCTP
import Testing

@Suite("usrsctp over UDP", .serialized, .enabled(if: Usrsctp.isInstalled, "libusrsctp-dev is not installed: scripts/setup brings it"))
struct UsrsctpTests {
  static let sizes = [1, 2, 3, 4, 5, 100, 1_000, 1_407, 1_408, 1_423, 1_424, 1_425, 1_500, 2_848, 10_000, 65_535, 65_536, 100_000, 200_000]

  @Test("takes messages of 1 to 200,000 octets from us and sends them back", arguments: [false, true])
  func sizesOut(isUnordered: Bool) async throws {
    try await Meeting(isUnordered: isUnordered).connect(TrialMessage.list(Self.sizes, streams: 3, isUnordered: isUnordered))
  }

  @Test("connects to us, and gets messages of 1 to 200,000 octets back", arguments: [false, true])
  func sizesIn(isUnordered: Bool) async throws {
    try await Meeting(isUnordered: isUnordered).accept(sizes: Self.sizes, streams: 3)
  }

  @Test("gets a message from us on each of 65,535 streams, and sends it back there")
  func streamsOut() async throws {
    try await Meeting().connect(TrialMessage.list(Array(repeating: 10, count: 65_535), streams: 65_535))
  }

  @Test("sends us a message on each of 65,535 streams, and gets it back there")
  func streamsIn() async throws {
    try await Meeting().accept(sizes: [10], rounds: 65_535, streams: 65_535)
  }

  /// Some 700 packets each way: of each fault that has a chance of one in twenty there is one, all but surely.
  static let many = sizes + sizes

  @Test("loses one packet in twenty each way, and all arrives: we connect")
  func lossOut() async throws {
    let result = try await Meeting(faults: .loss).connect(TrialMessage.list(Self.many, streams: 5))
    #expect(result.relay.lost > 0)
    #expect(result.report.statistics.chunksRetransmitted > 0)
  }

  @Test("loses one packet in twenty each way, and all arrives: usrsctp connects")
  func lossIn() async throws {
    let result = try await Meeting(faults: .loss).accept(sizes: Self.many, streams: 5)
    #expect(result.relay.lost > 0)
  }

  static func holdAll(_ result: Meeting.Result) {
    #expect(result.relay.lost > 0)
    #expect(result.relay.doubled > 0)
    #expect(result.relay.corrupted > 0)
    #expect(result.relay.reordered > 0)
    #expect(result.report.statistics.duplicatesReceived > 0)
  }

  @Test(
    "is beyond a network that loses, doubles, corrupts and reorders: all arrives as it was, both ways; we connect",
    arguments: [false, true])
  func faultsOut(isUnordered: Bool) async throws {
    Self.holdAll(
      try await Meeting(faults: .all, isUnordered: isUnordered).connect(
        TrialMessage.list(Self.many, streams: 5, isUnordered: isUnordered)))
  }

  @Test("is beyond a network that loses, doubles, corrupts and reorders: all arrives as it was, both ways; usrsctp connects")
  func faultsIn() async throws { Self.holdAll(try await Meeting(faults: .all).accept(sizes: Self.many, streams: 5)) }

  static let key: [UInt8] = Array("interoperable endpoint pair key!".utf8)

  @Test(
    "authenticates with a shared key (HMAC-SHA-1, which is all it has), and wants our DATA authenticated too",
    arguments: [0, 7] as [UInt16])
  func authentication(keyIdentifier: UInt16) async throws {
    for options in [[], ["--auth-data"]] {
      let meeting = Meeting(key: Self.key, keyIdentifier: keyIdentifier, options: options)
      try await meeting.connect(TrialMessage.list([1, 1_000, 10_000], streams: 2))
      try await meeting.accept(sizes: [1, 1_000, 10_000], streams: 2)
    }
  }

  @Test("with another key gets no association, nor with the same key under another number, nor do we who come with the empty key 0")
  func wrongKey() async throws {
    let message = TrialMessage.list([1], streams: 1)
    for meeting in [
      Meeting(key: Self.key, ourKey: Array("another key".utf8)), Meeting(key: Self.key, keyIdentifier: 7, ourKeyIdentifier: 8),
      Meeting(key: Self.key, keyIdentifier: 7, ourKey: [], ourKeyIdentifier: 0),
    ] {
      await #expect(throws: TrialError.self) { try await meeting.connect(message) }
    }
  }
}
