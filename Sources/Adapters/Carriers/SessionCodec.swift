import ChunkStores
import Compression
import Dedup
import NIOCore
import Vocabulary

/// What this end of sealed sessions does for the octets of their flows: one for all sessions of a program, on one event loop.
package struct SessionCodec {
  /// Flows of one session that are coded at once; the client opens further ones plain. A context of zstd is up to half a mebibyte at each end, and a guest may have 128.
  package static let maximumFlows = 64
  /// The agent refuses an OPEN beyond this: its own count falls a little later than the client's.
  static let mostFlows = 2 * maximumFlows
  /// What one DATA may stand for in octets: twice what we send, and what a tunnel's may.
  static let decodedOctets = 32 << 10

  /// What a client's sessions may keep: 100 Mbit/s x 500 ms x 10, which names of one round trip may stand for.
  package static let clientPins = 64 << 20
  /// And an agent's: one flow's window, since guests are small. Beyond it all goes out in full.
  package static let agentPins = 16 << 20

  let compresses: Bool
  let store: (any ChunkStore)?
  let pins: PinBudget
  let effort = CompressionEffort()
  /// Names of chunks are of one session's pair of stores, so that all its peers can be one: no belief is ever about another.
  let slot: PeerSlot?

  /// - Parameters:
  ///   - store: nil: no byte cache.
  ///   - pinned: octets that all sessions together may keep because they have gone as names only.
  package init(compresses: Bool = true, store: (any ChunkStore)?, pinned: Int) {
    self.compresses = compresses
    self.store = compresses ? store : nil
    pins = PinBudget(limit: pinned)
    slot = self.store?.slot(of: NodeID("sessions"), store: 1)
  }

  package var offer: CodecOffer { CodecOffer(best: !compresses ? .plain : store == nil ? .zstd : .cached, store: store?.identity ?? 0) }

  /// What the flows of one session share; nil where one of the ends keeps no chunks.
  package func cache(client: SessionCodecEnd, agent: SessionCodecEnd) -> ByteCache? {
    guard let store, let slot, client.store != 0, agent.store != 0 else { return nil }
    return ByteCache(store: store, peer: slot, tenant: "session \(client) \(agent)")
  }
}

/// One end of a sealed session, as it goes into the names of chunks: the name in its certificate, and the identity of its store.
package struct SessionCodecEnd: Sendable, Hashable, CustomStringConvertible {
  package var name: String
  package var store: UInt64
  package var description: String { "\(name) \(String(store, radix: 16))" }

  package init(name: String, store: UInt64) {
    self.name = name
    self.store = store
  }
}

/// What an end can do: said by the agent when a session stands (the message CODEC), and by the client in each OPEN.
package struct CodecOffer: Sendable, Hashable {
  package var best: DataCoding
  /// The identity of the end's chunk store; 0: none.
  package var store: UInt64

  package init(best: DataCoding, store: UInt64) {
    self.best = best
    self.store = store
  }

  package var octets: [UInt8] { [best.rawValue] + (0..<8).map { UInt8(truncatingIfNeeded: store >> (56 - 8 * $0)) } }

  /// Nil if it is no offer. A coding of a later version reads as the best that is known here.
  package init?(_ octets: [UInt8]) {
    guard octets.count == 9 else { return nil }
    best = DataCoding(rawValue: octets[0]) ?? .cached
    store = octets[1...].reduce(0) { $0 << 8 | UInt64($1) }
  }
}

/// What OPEN and OPENED of a coded flow say behind the flow's own fields.
package struct FlowCodings: Sendable, Hashable {
  /// How the sender codes its own octets.
  package var outbound: DataCoding
  /// OPEN: the best that the agent may answer with. OPENED: the same as `outbound`.
  package var inbound: DataCoding

  private var octet: UInt8 { outbound.rawValue | inbound.rawValue << 4 }

  private init?(octet: UInt8) {
    guard let outbound = DataCoding(rawValue: octet & 15), let inbound = DataCoding(rawValue: octet >> 4) else { return nil }
    self.init(outbound: outbound, inbound: inbound)
  }

  package init(outbound: DataCoding, inbound: DataCoding) {
    self.outbound = outbound
    self.inbound = inbound
  }

  /// Behind OPEN's body: the codings, and the identity of the client's store.
  package func write(store: UInt64, behind body: inout ByteBuffer) {
    body.writeInteger(octet)
    body.writeInteger(store)
  }

  /// Behind OPENED's body.
  package func write(behind body: inout ByteBuffer) { body.writeInteger(octet) }

  /// Cuts the tail off OPEN's body; nil if it has none. What is wrong about the body is for its own reader to say.
  package static func cut(fromOpen body: inout ByteBuffer) -> (codings: FlowCodings, store: UInt64)? {
    let start = body.readerIndex
    guard let host = body.getInteger(at: start + 6, as: UInt8.self) else { return nil }
    let length = 7 + Int(host)
    guard body.readableBytes == length + 9, let octet = body.getInteger(at: start + length, as: UInt8.self),
      let codings = FlowCodings(octet: octet), let store = body.getInteger(at: start + length + 1, as: UInt64.self)
    else { return nil }
    body.moveWriterIndex(to: start + length)
    return (codings, store)
  }

  package static func cut(fromOpened body: inout ByteBuffer) -> FlowCodings? {
    guard body.readableBytes == 5, let octet = body.getInteger(at: body.readerIndex + 4, as: UInt8.self),
      let codings = FlowCodings(octet: octet)
    else { return nil }
    body.moveWriterIndex(to: body.readerIndex + 4)
    return codings
  }
}
