import NIOCore
import SCTP
import Testing
import Vocabulary

/// Peers that break the rules on purpose, most of them with the right key: what they send is refused, or what it costs is bounded.
@Suite("A bad peer on TCP")
struct BadPeerTests {
  let line = CarrierID(1)

  func established(z: AssociationConfiguration = Duo.configuration()) -> (duo: Duo, forger: Forger) {
    let duo = Duo.established(z: z)
    return (duo, Forger(duo.trace.map(\.packet)))
  }

  /// Z takes the packet, and both do what they want.
  func give(_ packet: ByteBuffer, to duo: inout Duo) {
    duo.trace.removeAll()
    duo.z?.receive(packet, on: line, at: duo.network.now)
    duo.pump()
  }

  func answers(_ duo: Duo) -> [UInt8] { duo.trace.filter { $0.from == .z }.flatMap { chunkTypes($0.packet) } }

  // MARK: ASCONF

  @Test(
    "signs with a wrong key, another key's number or an unknown algorithm, or not at all: nothing of its packet is read",
    arguments: [Forger.Signature.wrong, .ofAnotherKey, .ofAnUnknownAlgorithm, .none])
  func unsigned(signature: Forger.Signature) {
    var (duo, forger) = established()
    let request = Forger.asconf(forger.firstOfA, (.add, Duo.z4), (.setPrimary, Duo.z4))
    give(forger.packet(tag: forger.tagOfZ, signature, request, Forger.data(forger.firstOfA)), to: &duo)
    #expect(duo.z?.peerAddresses == [Duo.a1] && duo.z?.epoch == 0)
    #expect(Duo.messages(duo.effectsOfZ).isEmpty, "DATA behind the ASCONF was read")
    #expect(answers(duo).isEmpty && duo.z?.state == .established)
    // The same with the right key is read: the forger knows its trade.
    give(forger.packet(tag: forger.tagOfZ, .right, request, Forger.data(forger.firstOfA)), to: &duo)
    #expect(duo.z?.peerAddresses == [Duo.a1, Duo.z4] && Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test(
    "asks for wildcard addresses, which the code does not cover: refused, whatever is asked",
    arguments: [Forger.Request.add, .delete, .setPrimary], [IPAddress.v4(0), .v6(high: 0, low: 0)])
  func wildcard(request: Forger.Request, address: IPAddress) {
    var (duo, forger) = established()
    give(forger.packet(tag: forger.tagOfZ, .right, Forger.asconf(forger.firstOfA, (request, address))), to: &duo)
    #expect(duo.z?.peerAddresses == [Duo.a1] && duo.z?.epoch == 0 && duo.z?.activeCarrier == line)
    #expect(answers(duo) == [15, 3, 0x80])
  }

  @Test("deletes its last address, or makes one primary that it never added: refused, and so is all behind it in the same ASCONF")
  func refused() {
    var (duo, forger) = established()
    let request = Forger.asconf(forger.firstOfA, (.delete, Duo.a1), (.add, Duo.z4))
    give(forger.packet(tag: forger.tagOfZ, .right, request), to: &duo)
    #expect(duo.z?.peerAddresses == [Duo.a1])
    give(forger.packet(tag: forger.tagOfZ, .right, Forger.asconf(forger.firstOfA &+ 1, (.setPrimary, Duo.z4))), to: &duo)
    #expect(duo.z?.epoch == 0)
  }

  @Test("adds addresses without end: no more are kept than the limit says")
  func addresses() {
    var (duo, forger) = established()
    for number in 0..<200 {
      let request = Forger.asconf(forger.firstOfA &+ UInt32(number), (.add, .v4(0x0a09_0001 + UInt32(number))))
      give(forger.packet(tag: forger.tagOfZ, .right, request), to: &duo)
    }
    #expect(duo.z?.peerAddresses.count == Duo.configuration().maximumPeerAddresses)
  }

  @Test("says an ASCONF again, late or early: the last one is answered again, no other, and none is done twice")
  func serials() {
    var (duo, forger) = established()
    func request(_ number: UInt32, _ address: IPAddress) -> ByteBuffer {
      forger.packet(tag: forger.tagOfZ, .right, Forger.asconf(forger.firstOfA &+ number, (.add, address)))
    }
    let (one, other) = (IPAddress("10.9.0.1")!, IPAddress("10.9.0.2")!)
    give(request(0, one), to: &duo)
    give(request(1, other), to: &duo)
    give(request(1, IPAddress("10.9.0.3")!), to: &duo)  // again, with other contents
    #expect(answers(duo) == [15, 3, 0x80])
    give(request(0, one), to: &duo)
    #expect(answers(duo).isEmpty)
    give(request(7, IPAddress("10.9.0.4")!), to: &duo)
    #expect(answers(duo).isEmpty)
    #expect(duo.z?.peerAddresses == [Duo.a1, one, other])
  }

  @Test("answers an ASCONF that was never sent: that ends the association; unsigned it is nothing")
  func answerToNothing() {
    var (duo, forger) = established()
    let answer = Forger.chunk(0x80, Forger.octets(forger.firstOfZ &+ 3))
    give(forger.packet(tag: forger.tagOfZ, .none, answer), to: &duo)
    #expect(duo.z?.state == .established)
    give(forger.packet(tag: forger.tagOfZ, .right, answer), to: &duo)
    #expect(answers(duo) == [6] && duo.z?.state == .closed)
  }

  @Test("refuses the only address that is left: the association keeps one, and can ask again")
  func lastAddressRefused() {
    var (duo, forger) = established()
    duo.z?.announce(Duo.z4, at: duo.network.now)
    duo.z?.withdraw(Duo.z3, at: duo.network.now)
    duo.tamper = { side, packet in side == .z ? nil : packet }  // the forger answers, not A
    duo.pump()
    let cause = Forger.parameter(0xc003, Forger.octets(UInt32(1)) + Forger.parameter(12, Array("no".utf8)))
    give(forger.packet(tag: forger.tagOfZ, .right, Forger.chunk(0x80, Forger.octets(forger.firstOfZ) + cause)), to: &duo)
    #expect(duo.effectsOfZ.contains { if case .announcementRefused(Duo.z4, _) = $0 { true } else { false } })
    #expect(duo.z?.localAddresses == [Duo.z4])
    #expect(answers(duo) == [15, 0xc1], "the next request follows")
  }

  @Test("asks with parameters of no length, of a length beyond the chunk, or with thousands of them: the association ends with ABORT")
  func parameters() {
    let endless = [0xc0, 0x01, 0xff, 0xff, 0, 0, 0, 1] as [UInt8]
    let empty = [0xc0, 0x01, 0, 0] as [UInt8]
    let many = Array(repeating: [0xc0, 0x01, 0, 4] as [UInt8], count: 5_000).flatMap { $0 }
    for bad in [endless, empty, many] {
      var (duo, forger) = established()
      let value = Forger.octets(forger.firstOfA) + Forger.address(Duo.a1) + bad
      give(forger.packet(tag: forger.tagOfZ, .right, Forger.chunk(0xc1, value)), to: &duo)
      #expect(duo.z?.state == .closed && answers(duo) == [6])
      #expect(duo.z?.peerAddresses == [Duo.a1])
    }
  }

  // MARK: Tags, cookies

  @Test(
    "has a wrong verification tag: its packets are dropped, whatever is in them", arguments: [0, 3, 4, 6, 7, 8, 9, 10, 11, 14] as [UInt8])
  func wrongTag(type: UInt8) {
    for tag in [0, 1, UInt32.max] {
      var (duo, forger) = established()
      let value = Forger.octets(forger.firstOfA) + [UInt8](repeating: 0, count: 12) + [7]
      give(forger.packet(tag: forger.tagOfZ ^ tag ^ (tag == 0 ? forger.tagOfZ : 0), .right, Forger.chunk(type, value)), to: &duo)
      #expect(duo.z?.state == .established && answers(duo).isEmpty && Duo.messages(duo.effectsOfZ).isEmpty)
    }
  }

  @Test(
    "sends INITs without end: nothing of them is kept, since a listener that has never seen the INIT takes its cookie as well as the one that has"
  )
  func nothingBeforeTheCookie() {
    var duo = Duo()
    let echo = Box<ByteBuffer?>(nil)
    duo.tamper = { side, packet in
      guard side == .a, chunkTypes(packet).contains(10) else { return packet }
      echo.value = packet
      return nil
    }
    duo.run(for: .milliseconds(100 as Int64))
    var stranger = Duo(seed: 99).listener  // the same secret, another memory
    guard let packet = echo.value,
      case .accept(let association) = stranger.receive(packet, on: line, local: Duo.z3, remote: Duo.a1, at: duo.network.now)
    else {
      Issue.record("the cookie was not taken")
      return
    }
    #expect(association.state == .established && association.peerAddresses == [Duo.a1])
  }

  @Test("sends a cookie that it made itself, or one of another listener: ignored without an answer")
  func forgedCookie() {
    var (duo, forger) = established()
    let stranger = duo.dial()
    for cookie in [[UInt8](repeating: 0, count: 150), [], [UInt8](repeating: 0xff, count: 2_000)] {
      duo.trace.removeAll()
      duo.receiveAtZ(forger.packet(tag: 5, .right, Forger.chunk(10, cookie)), on: duo.lines[stranger]!)
      duo.pump()
      #expect(answers(duo).isEmpty)
    }
    #expect(duo.ignored.count == 3 && duo.z?.activeCarrier == line)
  }

  @Test("sends INITs with parameters of no length, of a length beyond the chunk, thousands of addresses, or no streams: refused or cut")
  func initiations() {
    func initiation(_ parameters: [UInt8], streams: UInt16 = 10, tag: UInt32 = 9) -> ByteBuffer {
      let value = Forger.octets(tag) + Forger.octets(UInt32(1 << 20)) + Forger.octets(streams) + Forger.octets(streams)
      return OutOfTheBlueTests.packet(1, tag: 0, value + Forger.octets(UInt32(1)) + parameters)
    }
    let addresses = (0..<5_000).flatMap { Forger.address(.v4(UInt32($0 + 1))) }
    for packet in [
      initiation([0, 5, 0, 0]), initiation([0, 5, 0xff, 0xff, 1]), initiation(addresses), initiation([], streams: 0),
      initiation([], tag: 0),
    ] {
      var listener = Duo().listener
      guard case .refuse(_, let reason) = listener.receive(packet, on: line, local: Duo.z3, remote: Duo.a1, at: .zero),
        reason.contains("INIT")
      else {
        Issue.record("not refused")
        continue
      }
    }
  }

  // MARK: SACK

  @Test("acknowledges what was never sent, or with gap blocks that end before they begin: the association ends with ABORT")
  func sacks() {
    for sack in [1, 2] {
      var (duo, forger) = established()
      let chunk =
        sack == 1 ? Forger.sack(forger.firstOfZ &+ 5) : Forger.sack(forger.firstOfZ &- 1, gaps: [(9, 3)])
      give(forger.packet(tag: forger.tagOfZ, .none, chunk), to: &duo)
      #expect(duo.z?.state == .closed && answers(duo) == [6])
    }
  }

  @Test("sends gap blocks far beyond what was sent, in any order, over and over: nothing is acknowledged by them")
  func gaps() {
    var (duo, forger) = established()
    duo.tamper = { side, packet in side == .z ? nil : packet }
    _ = duo.z?.send(message(1_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: true)
    duo.pump()
    let blocks: [(UInt16, UInt16)] = (0..<2_000 as Range<UInt16>).map { ($0 * 32 + 2, $0 * 32 + 9) } + [(3, 4), (2, 2)]
    give(forger.packet(tag: forger.tagOfZ, .none, Forger.sack(forger.firstOfZ &- 1, gaps: blocks)), to: &duo)
    #expect(duo.z?.state == .established && duo.z?.unacknowledged == 1_000)
    give(forger.packet(tag: forger.tagOfZ, .none, Forger.sack(forger.firstOfZ)), to: &duo)
    #expect(duo.z?.unacknowledged == 0)
  }

  @Test("never acknowledges: no more is sent than the window, no more is taken than the send buffer")
  func silent() {
    var small = Duo.configuration()
    small.sendBuffer = ByteCount(100_000)
    var (duo, forger) = established(z: small)
    duo.tamper = { side, packet in side == .z ? nil : packet }
    give(forger.packet(tag: forger.tagOfZ, .none, Forger.sack(forger.firstOfZ &- 1, window: 20_000)), to: &duo)
    var taken = 0
    while taken < 1_000, duo.z?.send(message(1_000), stream: StreamID(0), protocolIdentifier: 1, endOfWrite: false) == true { taken += 1 }
    duo.pump()
    #expect(taken == 100)
    #expect(duo.trace.reduce(0) { $0 + $1.packet.readableBytes } < 22_000)
  }

  // MARK: DATA

  @Test("leaves out a stream sequence number: its messages would wait for ever, so the association ends")
  func leftOut() {
    var strict = Duo.configuration()
    strict.features.partialReliability = false  // with it the peer may skip numbers
    var (duo, forger) = established(z: strict)
    give(forger.packet(tag: forger.tagOfZ, .none, Forger.data(forger.firstOfA, sequence: 1)), to: &duo)
    #expect(answers(duo) == [6] && duo.z?.state == .closed)
  }

  @Test("leaves one out where it might still skip it, and goes on without end: twice the window is held, and no more")
  func leftOutForGood() {
    var small = Duo.configuration()
    small.receiveWindow = ByteCount(50_000)
    var (duo, forger) = established(z: small)
    var number: UInt32 = 0
    while duo.z?.state == .established, number < 1_000 {
      let data = Forger.data(forger.firstOfA &+ number, sequence: UInt16(number + 1), [UInt8](repeating: 1, count: 1_000))
      give(forger.packet(tag: forger.tagOfZ, .none, data), to: &duo)
      number += 1
    }
    #expect((100...103).contains(number) && answers(duo) == [6])
  }

  @Test("resets all its streams when none is in use, in either way of asking: answered, and nothing else")
  func resetOfNothing() {
    var (duo, forger) = established()
    // Outgoing SSN Reset (RFC 6525 section 4.1) without a list: request and response numbers, the last TSN.
    let request = Forger.octets(forger.firstOfA) + Forger.octets(forger.firstOfZ &- 1) + Forger.octets(forger.firstOfA &- 1)
    give(forger.packet(tag: forger.tagOfZ, .none, Forger.chunk(0x82, Forger.parameter(13, request))), to: &duo)
    #expect(answers(duo) == [0x82] && duo.z?.state == .established)
    give(forger.packet(tag: forger.tagOfZ, .none, Forger.chunk(0x82, Forger.parameter(14, Forger.octets(forger.firstOfA &+ 1)))), to: &duo)
    #expect(answers(duo).allSatisfy { $0 == 0x82 } && duo.z?.state == .established)
  }

  @Test("sends one octet in each chunk, every other TSN: the chunks that are held, and the SACKs, have a bound")
  func oneOctet() {
    var (duo, forger) = established()
    duo.trace.removeAll()
    for number in 0..<9_000 as Range<UInt32> {
      let tsn = forger.firstOfA &+ 1 &+ 2 * number
      duo.z?.receive(forger.packet(tag: forger.tagOfZ, .none, Forger.data(tsn, flags: 7)), on: line, at: duo.network.now)
    }
    duo.pump()
    let sack = duo.trace.last { $0.from == .z && chunkTypes($0.packet) == [3] }?.packet
    // Common header 12, chunk header 4, cumulative TSN, window: then the count of gap blocks.
    #expect(sack?.getInteger(at: sack!.readerIndex + 24, as: UInt16.self) == 4_096)
    #expect(duo.z?.state == .established)
    #expect(duo.trace.filter { $0.from == .z }.count == 1, "one SACK speaks for all packets of a turn")
  }

  @Test("begins a message and never ends it: it is told so once it passes the window")
  func endless() {
    var small = Duo.configuration()
    small.receiveWindow = ByteCount(50_000)
    var (duo, forger) = established(z: small)
    var number: UInt32 = 0
    while duo.z?.state == .established, number < 1_000 {
      let data = Forger.data(forger.firstOfA &+ number, flags: number == 0 ? 2 : 0, [UInt8](repeating: 1, count: 1_000))
      give(forger.packet(tag: forger.tagOfZ, .none, data), to: &duo)
      number += 1
    }
    #expect((50...51).contains(number) && answers(duo) == [6])
  }

  @Test("begins a message on each of 65,535 streams and ends none: what is held stays within the window")
  func halves() {
    var small = Duo.configuration()
    small.receiveWindow = ByteCount(100_000)
    var (duo, forger) = established(z: small)
    duo.trace.removeAll()
    // Every other TSN, so that each half is one of its own: two neighbours would be refused as mixed.
    for stream in 0..<32_767 as Range<UInt32> {
      let data = Forger.data(forger.firstOfA &+ 1 &+ 2 * stream, stream: UInt16(2 * stream), flags: 2, [UInt8](repeating: 1, count: 100))
      duo.z?.receive(forger.packet(tag: forger.tagOfZ, .none, data), on: line, at: duo.network.now)
    }
    duo.pump()
    let sack = duo.trace.last { $0.from == .z && chunkTypes($0.packet) == [3] }?.packet
    #expect(sack?.getInteger(at: sack!.readerIndex + 20, as: UInt32.self) == 0, "the window is full")
    #expect(sack?.getInteger(at: sack!.readerIndex + 24, as: UInt16.self) == 1_000)
    #expect(duo.z?.state == .established)
  }

  // MARK: Floods

  @Test("asks with HEARTBEATs, ASCONFs and unknown chunks and reads no answer: what waits for it has a bound")
  func unread() {
    var (duo, forger) = established()
    duo.z?.carrierWritable(line, false)
    duo.trace.removeAll()
    let heartbeat = Forger.chunk(4, Forger.parameter(1, [UInt8](repeating: 1, count: 30_000)))
    for number in 0..<1_000 as Range<UInt32> {
      duo.z?.receive(forger.packet(tag: forger.tagOfZ, .none, heartbeat), on: line, at: duo.network.now)
      let request = Forger.asconf(forger.firstOfA, (.add, Duo.z4))
      duo.z?.receive(forger.packet(tag: forger.tagOfZ, .right, request), on: line, at: duo.network.now)
      let unknown = Forger.chunk(0xfe, [UInt8](repeating: 1, count: 30_000))
      duo.z?.receive(forger.packet(tag: forger.tagOfZ, .none, unknown), on: line, at: duo.network.now)
      let data = Forger.data(forger.firstOfA &+ number, sequence: UInt16(number))
      duo.z?.receive(forger.packet(tag: forger.tagOfZ, .none, data), on: line, at: duo.network.now)
      duo.pump()
    }
    #expect(duo.trace.filter { $0.from == .z }.isEmpty, "nothing goes into a socket that takes nothing")
    duo.z?.carrierWritable(line, true)
    duo.pump()
    let types = answers(duo)
    #expect(types.filter { $0 == 5 }.count == 8 && types.filter { $0 == 0x80 }.count == 8 && types.filter { $0 == 9 }.count == 8)
    #expect(types.filter { $0 == 3 }.count <= 9)  // in front of each ASCONF-ACK, and one more
  }

  @Test("sends ERRORs without end: each is told, none is answered, and nothing stays")
  func errors() {
    var (duo, forger) = established()
    let error = Forger.chunk(9, Forger.parameter(10, []))
    for _ in 0..<5_000 { give(forger.packet(tag: forger.tagOfZ, .none, error), to: &duo) }
    #expect(answers(duo).isEmpty && duo.z?.state == .established)
    #expect(duo.effectsOfZ.filter { if case .peerReported = $0 { true } else { false } }.count == 5_000)
  }
}

@Suite("A bad peer on datagrams")
struct BadDatagramPeerTests {
  @Test("says its COOKIE ECHO again and again: one association comes of it")
  func cookieAgain() throws {
    var duo = DatagramDuo.established()
    let echo = try #require(duo.trace.first { chunkTypes($0.packet).contains(10) }).packet
    for number in 0..<200 {
      let from = DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1, port: number % 2 == 0 ? DatagramDuo.port : UInt16(2_000 + number))
      duo.z.receive(echo, on: from, at: duo.network.now)
      duo.run(for: .milliseconds(1 as Int64))
    }
    #expect(duo.z.associations.count == 1 && duo.stateOfZ == .established && duo.stateOfA == .established)
    duo.send(.a, message(10))
    duo.run(for: .seconds(5.0))
    #expect(Duo.messages(duo.effectsOfZ).count == 1)
  }

  @Test("sets up association after association: those beyond the limit are told so, and nothing of them is kept")
  func associations() throws {
    var duo = DatagramDuo()
    duo.z.maximumAssociations = 3
    var failures: [AssociationError] = []
    for number in 0..<6 as Range<UInt16> {
      var client = DatagramDuo(seed: UInt64(100 + number)).a
      let there = DatagramDuo.route(DatagramDuo.a1, DatagramDuo.z3)
      let here = DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1, port: 1_000 + number)
      _ = client.connect(there, at: duo.network.now)
      for _ in 0..<8 {
        while let effect = client.nextEffect(at: duo.network.now) {
          if case .transmit(let packet, _) = effect { duo.z.receive(packet, on: here, at: duo.network.now) }
          if case .event(_, .failed(let error)) = effect { failures.append(error) }
        }
        while let effect = duo.z.nextEffect(at: duo.network.now) {
          if case .transmit(let packet, here) = effect { client.receive(packet, on: there, at: duo.network.now) }
        }
      }
    }
    #expect(duo.z.associations.count == 3)
    #expect(failures.count == 3 && failures.allSatisfy { if case .peerAborted = $0 { true } else { false } }, "\(failures)")
  }

  @Test("answers for addresses that are not its own: a path is used only once its nonce has come back")
  func spoofedHeartbeats() throws {
    var duo = DatagramDuo.established()
    let forger = Forger(duo.trace.map(\.packet))
    let route = DatagramDuo.route(DatagramDuo.z3, DatagramDuo.a1)
    let request = Forger.asconf(forger.firstOfA, (.add, DatagramDuo.a2), (.setPrimary, DatagramDuo.a2))
    duo.dead = [DatagramDuo.a2]
    duo.z.receive(forger.packet(tag: forger.tagOfZ, .right, request), on: route, at: duo.network.now)
    duo.pump()
    for nonce in 0..<100 as Range<UInt64> {
      let answer = Forger.chunk(5, Forger.parameter(1, Forger.octets(nonce)))
      duo.z.receive(forger.packet(tag: forger.tagOfZ, .none, answer), on: route, at: duo.network.now)
    }
    duo.trace.removeAll()
    for _ in 0..<5 { duo.send(.z, message(1_000)) }
    duo.pump()
    let sent = duo.trace.filter { $0.route.remote.address == DatagramDuo.a2 }
    #expect(sent.allSatisfy { chunkTypes($0.packet).allSatisfy { $0 == 4 } }, "only HEARTBEAT goes to an address that has not answered")
  }
}
