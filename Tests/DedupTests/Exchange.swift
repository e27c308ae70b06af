import Crypto
import Dedup
import NIOCore
import Vocabulary

/// SHA-256 without a salt, as a service hands it in.
let testNamer = ChunkNamer { octets in
  var hash = SHA256()
  hash.update(bufferPointer: octets)
  return hash.finalize().withUnsafeBytes { digest in
    ChunkName(
      high: digest.loadUnaligned(as: UInt64.self).bigEndian, middle: digest.loadUnaligned(fromByteOffset: 8, as: UInt64.self).bigEndian,
      low: digest.loadUnaligned(fromByteOffset: 16, as: UInt32.self).bigEndian)
  }
}

/// What two ends have learned, over many flows.
struct Stores {
  /// What the sender believes the receiver to have, and what it really has.
  var believed: Set<ChunkName> = []
  var chunks: [ChunkName: ByteBuffer] = [:]
}

/// What one flow cost.
struct Cost: Equatable {
  var plain = 0
  var references = 0
  var referenced = 0
  var lanes = 0
  var missing = 0

  /// A name and a length.
  var wire: Int { plain + references * 24 }
}

/// One direction of a flow: a sender A, a receiver Z, and the frames between them, in order and at once.
struct Exchange {
  var encoder = ChunkEncoder(namer: testNamer)
  var decoder = ChunkDecoder(namer: testNamer, maximumPending: 64 << 20)
  var stores: Stores
  var output: [UInt8] = []
  var cost = Cost()
  var sent: [ChunkName] = []
  var got: [ChunkName] = []
  /// Chunks that are taken from the receiver's store, as if evicted, before they are looked for.
  var isEvicted: (ChunkName) -> Bool = { _ in false }
  var resolved: UInt32 = 0
  var ahead = 1 << 20

  init(stores: Stores = Stores()) { self.stores = stores }

  mutating func append(_ bytes: some Collection<UInt8>) throws {
    let believed = stores.believed
    encoder.append(ByteBuffer(bytes: bytes), isShared: { believed.contains($0) }, learned: { name, _ in sent.append(name) })
    stores.believed.formUnion(sent)
    try carry()
  }

  mutating func flush() throws {
    let believed = stores.believed
    encoder.flush { believed.contains($0) }
    try carry()
  }

  mutating func pause() throws {
    let believed = stores.believed
    encoder.pause(isShared: { believed.contains($0) }, learned: { name, _ in sent.append(name) })
    stores.believed.formUnion(sent)
    try carry()
  }

  mutating func end() throws {
    let believed = stores.believed
    encoder.end(isShared: { believed.contains($0) }, learned: { name, _ in sent.append(name) })
    stores.believed.formUnion(sent)
    try carry()
    try decoder.end { name, bytes in
      got.append(name)
      stores.chunks[name] = bytes
    }
    try deliver()
  }

  private mutating func carry() throws {
    while let piece = encoder.nextPiece() {
      switch piece {
      case .lane(let lane):
        cost.lanes += 1
        try decoder.lane(lane) { name, bytes in
          got.append(name)
          stores.chunks[name] = bytes
        }
      case .plain(let bytes):
        cost.plain += bytes.readableBytes
        try decoder.plain(bytes) { name, bytes in
          got.append(name)
          stores.chunks[name] = bytes
        }
      case .reference(let reference):
        cost.references += 1
        cost.referenced += reference.octets
        try decoder.reference(reference)
      }
      try deliver()
    }
  }

  private mutating func deliver() throws {
    while let decoded = decoder.next(ahead: ahead) {
      switch decoded {
      case .bytes(let bytes): output += bytes.readableBytesView
      case .want(let ordinal, let reference):
        if let bytes = stores.chunks[reference.name], !isEvicted(reference.name) {
          try decoder.supply(ordinal, bytes, verify: false)
        } else {
          cost.missing += 1
          let (name, bytes) = try encoder.missing(ordinal)
          guard name == reference.name else { throw ChunkViolation.unknownOrdinal(ordinal) }
          try decoder.supply(ordinal, bytes, verify: true)
        }
      }
    }
    if decoder.resolvedCount != resolved {
      resolved = decoder.resolvedCount
      try encoder.resolved(upTo: resolved)
    }
  }

  /// A whole flow: in pieces of one size, to its end.
  static func run(_ bytes: [UInt8], piece: Int = 128 << 10, stores: inout Stores) throws -> Exchange {
    var exchange = Exchange(stores: stores)
    var index = 0
    while index < bytes.count {
      try exchange.append(bytes[index..<min(index + piece, bytes.count)])
      index += piece
    }
    try exchange.end()
    stores = exchange.stores
    return exchange
  }
}

extension SeededGenerator {
  mutating func octets(_ count: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count + 8)
    while bytes.count < count { withUnsafeBytes(of: next()) { bytes += $0 } }
    return Array(bytes.prefix(count))
  }
}
