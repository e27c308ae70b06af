import NIOCore
import NIOPosix
import Sockets
import Vocabulary

/// How badly a relay treats datagrams: probabilities from 0 to 1, each way.
struct Faults: Sendable {
  var loss = 0.0
  var duplication = 0.0
  /// One bit is turned.
  var corruption = 0.0
  /// The datagram waits until others have overtaken it.
  var reordering = 0.0

  static let none = Faults()
  static let loss = Faults(loss: 0.05)
  static let all = Faults(loss: 0.05, duplication: 0.05, corruption: 0.05, reordering: 0.1)
}

/// Passes datagrams between the side that speaks first and `target`, and does them harm by a seed.
///
/// It has a socket for each side, at the other side's address: usrsctp takes a packet's checksum on trust when source and destination are the same.
final class FaultyRelay {
  /// What it has done.
  struct Counters: Sendable, Equatable {
    var passed = 0
    var lost = 0
    var doubled = 0
    var corrupted = 0
    var reordered = 0
    /// The types of the chunks that have come by.
    var chunks: Set<UInt8> = []
  }

  /// Datagrams that overtake one that waits, and how long it waits if there are none: longer than a round trip of the loopback, shorter than an RTO.
  private static let overtakers = 4
  private static let patience = TimeAmount.milliseconds(20)

  private let faults: Faults
  private var random: SeededGenerator
  private let loop: any EventLoop
  private var front: (any Channel)?
  private var back: (any Channel)?
  private let target: SocketAddress
  private var caller: SocketAddress?
  private var waiting: [(Datagram, after: Int)] = []
  private(set) var counters = Counters()

  private struct Datagram {
    var isForTarget: Bool
    var payload: ByteBuffer
  }

  private init(target: SocketAddress, faults: Faults, seed: UInt64, loop: any EventLoop) {
    self.target = target
    self.faults = faults
    self.loop = loop
    random = SeededGenerator(seed: seed)
  }

  /// The relay, on free ports of the loopback.
  static func start(from caller: IPAddress, to target: Endpoint, _ faults: Faults, seed: UInt64, loop: any EventLoop) async throws
    -> Running
  {
    let address = try SocketAddress(target)
    let relay = try await loop.submit {
      NIOLoopBound(FaultyRelay(target: address, faults: faults, seed: seed, loop: loop), eventLoop: loop)
    }.get()
    func bind(_ address: IPAddress, isFront: Bool) async throws -> any Channel {
      try await DatagramBootstrap(group: loop)
        .channelInitializer { channel in
          channel.eventLoop.makeCompletedFuture {
            try channel.pipeline.syncOperations.addHandler(RelayEnd(relay: relay.value, isFront: isFront))
          }
        }
        .bind(host: "\(address)", port: 0).get()
    }
    let front = try await bind(target.address, isFront: true)
    let back = try await bind(caller, isFront: false)
    try await loop.submit { (relay.value.front, relay.value.back) = (front, back) }.get()
    return Running(
      relay: relay, channels: [front, back], loop: loop,
      endpoint: Endpoint(address: target.address, port: UInt16(front.localAddress?.port ?? 0)))
  }

  struct Running: Sendable {
    fileprivate var relay: NIOLoopBound<FaultyRelay>
    fileprivate var channels: [any Channel]
    fileprivate var loop: any EventLoop
    /// Where it takes the caller's datagrams.
    fileprivate(set) var endpoint: Endpoint

    /// Closes it, and says what it has done.
    func stop() async throws -> Counters {
      for channel in channels { try await channel.close().get() }
      return try await loop.submit { relay.value.counters }.get()
    }
  }

  fileprivate func take(_ envelope: AddressedEnvelope<ByteBuffer>, isFront: Bool) {
    if isFront { caller = envelope.remoteAddress }
    noteChunks(envelope.data)
    if happens(faults.loss) {
      counters.lost += 1
      return
    }
    var datagram = Datagram(isForTarget: isFront, payload: envelope.data)
    if happens(faults.corruption) {
      let at = datagram.payload.readerIndex + Int.random(in: 0..<datagram.payload.readableBytes, using: &random)
      datagram.payload.setInteger((datagram.payload.getInteger(at: at) ?? 0) ^ UInt8(1) << UInt8.random(in: 0..<8, using: &random), at: at)
      counters.corrupted += 1
    }
    if happens(faults.reordering) {
      counters.reordered += 1
      waiting.append((datagram, Self.overtakers))
      let bound = NIOLoopBound(self, eventLoop: loop)
      loop.scheduleTask(in: Self.patience) { bound.value.release { _ in true } }
      return
    }
    if happens(faults.duplication) {
      counters.doubled += 1
      pass(datagram)
    }
    pass(datagram)
    for index in waiting.indices { waiting[index].after -= 1 }
    release { $0 <= 0 }
  }

  fileprivate func flush() {
    front?.flush()
    back?.flush()
  }

  private func release(_ isDue: (Int) -> Bool) {
    for entry in waiting where isDue(entry.after) { pass(entry.0) }
    waiting.removeAll { isDue($0.after) }
    flush()
  }

  private func pass(_ datagram: Datagram) {
    guard let to = datagram.isForTarget ? target : caller else { return }
    counters.passed += 1
    (datagram.isForTarget ? back : front)?.write(AddressedEnvelope(remoteAddress: to, data: datagram.payload), promise: nil)
  }

  private func noteChunks(_ packet: ByteBuffer) {
    var rest = packet
    rest.moveReaderIndex(forwardBy: min(12, rest.readableBytes))
    while let type = rest.readInteger(as: UInt8.self), let flags = rest.readInteger(as: UInt8.self),
      let length = rest.readInteger(as: UInt16.self)
    {
      _ = flags
      counters.chunks.insert(type)
      rest.moveReaderIndex(forwardBy: min(rest.readableBytes, max(4, (Int(length) + 3) & ~3) - 4))
    }
  }

  private func happens(_ probability: Double) -> Bool { probability > 0 && Double.random(in: 0..<1, using: &random) < probability }
}

/// One of the relay's sockets.
private final class RelayEnd: ChannelInboundHandler {
  typealias InboundIn = AddressedEnvelope<ByteBuffer>

  private let relay: FaultyRelay
  private let isFront: Bool

  init(relay: FaultyRelay, isFront: Bool) {
    self.relay = relay
    self.isFront = isFront
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) { relay.take(unwrapInboundIn(data), isFront: isFront) }
  func channelReadComplete(context: ChannelHandlerContext) { relay.flush() }
}
