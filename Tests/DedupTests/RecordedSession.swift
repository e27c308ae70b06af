import NIOCore
import SCTP
import Vocabulary

/// A session of two real associations, and what each of its carriers carried in each direction, as it stands in TCP.
struct RecordedSession {
  struct Way: Hashable {
    var carrier: CarrierID
    var isFromAgent: Bool
  }

  private struct Signer: Authenticator {
    func authenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] { [UInt8](repeating: 7, count: 32) }
    func legacyAuthenticationCode(key: [UInt8], _ parts: [ByteBuffer]) -> [UInt8] { [UInt8](repeating: 7, count: 20) }
  }

  private(set) var carried: [Way: [UInt8]] = [:]
  private var client: Association
  private var agent: Association?
  private var listener: Listener
  private var now = Instant(nanoseconds: 1_000_000_000)
  private static let here = IPAddress.v4(0x0a00_0001)
  private static let there = IPAddress.v4(0x0a00_0002)
  private var known: Set<CarrierID> = []

  init(isInterleaved: Bool) {
    var configuration = AssociationConfiguration(endpointKey: [1, 2, 3])
    configuration.features.interleaving = isInterleaved
    listener = Listener(
      configuration: configuration, authenticator: Signer(), cookieSecret: Array(0..<32), random: SeededGenerator(seed: 1))
    client = Association(
      connecting: configuration, authenticator: Signer(), random: SeededGenerator(seed: 2), on: CarrierID(1), local: Self.here,
      remote: Self.there,
      at: now)
    run()
  }

  var isEstablished: Bool { client.state == .established && agent?.state == .established }

  /// The agent sends a file on a stream, as a flow does.
  mutating func send(_ file: [UInt8], stream: UInt16) {
    _ = agent?.send(ByteBuffer(bytes: [0, 1, 0, 0]), stream: StreamID(stream), protocolIdentifier: 0x4c48_0002, endOfWrite: true)
    for start in stride(from: 0, to: file.count, by: 16 << 10) {
      let part = ByteBuffer(bytes: file[start..<min(start + 16 << 10, file.count)])
      while agent?.send(part, stream: StreamID(stream), protocolIdentifier: 0x4c48_0004, endOfWrite: false) == false { run() }
    }
    run()
    _ = agent?.send(ByteBuffer(bytes: [0]), stream: StreamID(stream), protocolIdentifier: 0x4c48_0006, endOfWrite: true)
    run()
  }

  mutating func move(to carrier: CarrierID) {
    client.carrierOpened(carrier, local: Self.here, remote: Self.there, at: now)
    client.move(to: carrier, localAddress: Self.here, peerAddress: Self.there, at: now)
    run()
  }

  /// Until neither end has anything to say. Packets arrive at once.
  private mutating func run() {
    var isBusy = true
    while isBusy {
      isBusy = false
      now = now + .milliseconds(1 as Int64)
      while let effect = client.nextEffect(at: now) {
        isBusy = true
        guard case .transmit(let packet, let carrier) = effect else { continue }
        record(packet, Way(carrier: carrier, isFromAgent: false))
        receive(packet, on: carrier)
      }
      while let effect = agent?.nextEffect(at: now) {
        isBusy = true
        guard case .transmit(let packet, let carrier) = effect else { continue }
        record(packet, Way(carrier: carrier, isFromAgent: true))
        client.receive(packet, on: carrier, at: now)
      }
      if let deadline = agent?.deadline, deadline <= now { agent?.handleDeadline(at: now) }
      if let deadline = client.deadline, deadline <= now { client.handleDeadline(at: now) }
    }
  }

  private mutating func receive(_ packet: ByteBuffer, on carrier: CarrierID) {
    if known.contains(carrier) {
      agent?.receive(packet, on: carrier, at: now)
      return
    }
    switch listener.receive(packet, on: carrier, local: Self.there, remote: Self.here, at: now) {
    case .reply(let answer), .refuse(.some(let answer), _):
      record(answer, Way(carrier: carrier, isFromAgent: true))
      client.receive(answer, on: carrier, at: now)
    case .accept(let association):
      agent = association
      known.insert(carrier)
    case .existing:
      known.insert(carrier)
      agent?.carrierOpened(carrier, local: Self.there, remote: Self.here, at: now)
      agent?.receive(packet, on: carrier, at: now)
    case .refuse(nil, _), .ignore: break
    }
  }

  private mutating func record(_ packet: ByteBuffer, _ way: Way) {
    let octets = packet.readableBytes
    carried[way, default: []] += [UInt8(octets >> 8), UInt8(octets & 255)] + packet.readableBytesView
  }
}
