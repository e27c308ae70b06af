import Dedup
import Flows
import NIOCore
import Vocabulary

// The octets of docs/wire/tunnel.md. All numbers are big-endian.

extension TunnelFrame {
  package var kind: Kind {
    switch self {
    case .hello: .hello
    case .proof: .proof
    case .goodbye: .goodbye
    case .flow(_, let frame, _):
      switch frame {
      case .open: .open
      case .opened: .opened
      case .refused: .refused
      case .data: .data
      case .credit: .credit
      case .end: .end
      case .reset: .reset
      }
    case .coded(_, let frame):
      switch frame {
      case .data: .data
      case .literal: .literal
      case .reference: .reference
      case .missing: .missing
      case .chunk: .chunk
      case .resolved: .resolved
      case .lane: .lane
      }
    case .ping: .ping
    case .pong: .pong
    case .pad: .pad
    case .warm: .warm
    case .leaving: .leaving
    case .have: .have
    }
  }

  /// Writes only a header: for DATA and LITERAL, whose payload goes out behind it without being copied.
  package static func writeHeader(_ kind: Kind, flow: FlowID = FlowID(0), payload: Int, into buffer: inout ByteBuffer) {
    precondition(payload <= TunnelLimits.payloadOctets)
    buffer.writeInteger(UInt32(kind.rawValue) << 24 | UInt32(payload))
    buffer.writeInteger(flow.value)
  }

  /// Writes the whole frame.
  package func write(into buffer: inout ByteBuffer) {
    let start = buffer.writerIndex
    TunnelFrame.writeHeader(kind, flow: flow, payload: 0, into: &buffer)
    let body = buffer.writerIndex
    writeBody(into: &buffer)
    let payload = buffer.writerIndex - body
    precondition(payload <= TunnelLimits.payloadOctets)
    buffer.setInteger(UInt32(kind.rawValue) << 24 | UInt32(payload), at: start)
  }

  private var flow: FlowID {
    switch self {
    case .flow(let id, _, _), .coded(let id, _): id
    default: FlowID(0)
    }
  }

  private func writeBody(into buffer: inout ByteBuffer) {
    switch self {
    case .hello(let hello): hello.write(into: &buffer)
    case .proof(let octets): buffer.writeBytes(octets)
    case .goodbye(let goodbye):
      buffer.writeInteger(goodbye.code.rawValue)
      buffer.writeBytes(goodbye.text.utf8.prefix(TunnelLimits.textOctets))
    case .flow(_, let frame, let terms):
      switch frame {
      case .open:
        terms.writeCodings(into: &buffer)
        terms.writeRest(into: &buffer)
      case .opened: terms.writeCodings(into: &buffer)
      default: break
      }
      frame.writeBody(into: &buffer)
    case .coded(_, let frame): frame.writeBody(into: &buffer)
    case .ping(let token), .pong(let token): buffer.writeInteger(token)
    case .pad(let octets): buffer.writeRepeatingByte(0, count: octets)
    case .warm(let request):
      buffer.writeInteger(UInt64(max(request.rate.bitsPerSecond, 0)))
      buffer.writeInteger(UInt32(clamping: request.roundTrip.nanoseconds / 1_000))
      buffer.writeInteger(UInt32(clamping: request.hold.nanoseconds / 1_000_000))
    case .leaving: break
    case .have(let have): have.write(into: &buffer)
    }
  }

  /// Reads the payload of a frame whose length has been checked.
  init(kind: Kind, flow: FlowID, payload: ByteBuffer) throws(TunnelViolation) {
    var body = payload
    switch kind {
    case .open, .opened:
      guard var terms = FlowTerms(from: &body), kind == .opened || terms.readRest(from: &body) else { throw .malformed(kind) }
      self = .flow(flow, try TunnelFrame.flowFrame(kind, body), terms: terms)
    case .refused, .credit, .end, .reset: self = .flow(flow, try TunnelFrame.flowFrame(kind, body), terms: .plain)
    case .data: self = .coded(flow, .data(body))
    case .literal: self = .coded(flow, .literal(body))
    case .reference: self = try TunnelFrame.coded(kind, flow, CodedFrame(references: body))
    case .missing: self = try TunnelFrame.coded(kind, flow, CodedFrame(missing: body))
    case .chunk: self = try TunnelFrame.coded(kind, flow, CodedFrame(chunk: body))
    case .resolved: self = try TunnelFrame.coded(kind, flow, CodedFrame(resolved: body))
    case .lane: self = try TunnelFrame.coded(kind, flow, CodedFrame(lane: body))
    case .hello: self = .hello(try TunnelHello(body))
    case .proof:
      guard let octets = body.readBytes(length: TunnelLimits.proofOctets), body.readableBytes == 0 else { throw .malformed(kind) }
      self = .proof(octets)
    case .goodbye:
      guard let code = body.readInteger(as: UInt8.self), body.readableBytes <= TunnelLimits.textOctets else { throw .malformed(kind) }
      let text = String(decoding: body.readableBytesView, as: UTF8.self)
      self = .goodbye(TunnelGoodbye(TunnelGoodbye.Code(rawValue: code) ?? .other, text.printable))
    case .ping, .pong:
      guard let token = body.readInteger(as: UInt64.self), body.readableBytes == 0 else { throw .malformed(kind) }
      self = kind == .ping ? .ping(token) : .pong(token)
    case .pad: self = .pad(body.readableBytes)
    case .leaving:
      guard body.readableBytes == 0 else { throw .malformed(kind) }
      self = .leaving
    case .warm:
      guard let rate = body.readInteger(as: UInt64.self), let roundTrip = body.readInteger(as: UInt32.self),
        let hold = body.readInteger(as: UInt32.self), body.readableBytes == 0
      else { throw .malformed(kind) }
      self = .warm(
        WarmRequest(
          rate: BitRate(bitsPerSecond: Double(min(rate, 1 << 40))), roundTrip: .microseconds(Int64(roundTrip)),
          hold: .milliseconds(Int64(hold))))
    case .have:
      guard let have = PeerBelief(from: &body) else { throw .malformed(kind) }
      self = .have(have)
    }
  }

  private static func flowFrame(_ kind: Kind, _ body: ByteBuffer) throws(TunnelViolation) -> FlowFrame {
    guard let flowKind = FlowFrame.Kind(rawValue: kind.rawValue) else { throw .unknownKind(kind.rawValue) }
    do {
      return try FlowFrame(kind: flowKind, body: body)
    } catch {
      throw .flow(error)
    }
  }
}

extension TunnelFrame {
  private static func coded(_ kind: Kind, _ flow: FlowID, _ frame: CodedFrame?) throws(TunnelViolation) -> TunnelFrame {
    guard let frame else { throw .malformed(kind) }
    return .coded(flow, frame)
  }
}

extension FlowTerms {
  fileprivate func writeCodings(into buffer: inout ByteBuffer) { buffer.writeInteger(inbound.rawValue << 4 | outbound.rawValue) }

  /// A coding of a later version is refused: who offers it must also understand the answer `plain`.
  fileprivate init?(from body: inout ByteBuffer) {
    guard let octet = body.readInteger(as: UInt8.self), let outbound = DataCoding(rawValue: octet & 15),
      let inbound = DataCoding(rawValue: octet >> 4)
    else { return nil }
    self.init(outbound: outbound, inbound: inbound)
  }

  /// Priority (1), length and name of the tenant (1 + 0 to 32), length of the source's address (1: 0, 4 or 16), address, port (2, where there is an address).
  fileprivate func writeRest(into buffer: inout ByteBuffer) {
    buffer.writeInteger(priority.rawValue)
    let name = tenant.utf8.prefix(TunnelLimits.tenantOctets)
    buffer.writeInteger(UInt8(name.count))
    buffer.writeBytes(name)
    let octets = source?.address.octets ?? []
    buffer.writeInteger(UInt8(octets.count))
    buffer.writeBytes(octets)
    if let source { buffer.writeInteger(source.port) }
  }

  /// A priority of a later version reads as `normal`.
  fileprivate mutating func readRest(from body: inout ByteBuffer) -> Bool {
    guard let priority = body.readInteger(as: UInt8.self), let length = body.readInteger(as: UInt8.self),
      length <= TunnelLimits.tenantOctets, let name = body.readBytes(length: Int(length)),
      let tenant = String(validating: name, as: UTF8.self), tenant == tenant.printable, let width = body.readInteger(as: UInt8.self)
    else { return false }
    self.priority = FlowPriority(rawValue: priority) ?? .normal
    self.tenant = tenant
    guard width > 0 else { return true }
    guard let octets = body.readBytes(length: Int(width)), let address = IPAddress(octets: octets),
      let port = body.readInteger(as: UInt16.self)
    else { return false }
    source = Endpoint(address: address, port: port)
    return true
  }
}

extension TunnelHello {
  /// "LHTN": what tells a tunnel from a stray connection.
  static let magic: UInt32 = 0x4c48_544e

  func write(into buffer: inout ByteBuffer) {
    buffer.writeInteger(TunnelHello.magic)
    buffer.writeInteger(version)
    buffer.writeInteger(maximumFlows)
    buffer.writeBytes(nonce)
    buffer.writeInteger(store)
    for name in [node, peer] { TunnelHello.write(name, into: &buffer) }
  }

  fileprivate static func write(_ name: NodeID, into buffer: inout ByteBuffer) {
    let octets = name.text.utf8.prefix(TunnelLimits.nameOctets)
    buffer.writeInteger(UInt8(octets.count))
    buffer.writeBytes(octets)
  }

  /// Of another version only what every version begins with is read: the names may look different there.
  init(_ body: ByteBuffer) throws(TunnelViolation) {
    var body = body
    guard body.readInteger(as: UInt32.self) == TunnelHello.magic, let version = body.readInteger(as: UInt8.self) else { throw .notATunnel }
    guard version == TunnelLimits.version else {
      self.init(
        version: version, node: NodeID("?"), peer: NodeID(""), maximumFlows: 0,
        nonce: [UInt8](repeating: 0, count: TunnelLimits.nonceOctets))
      return
    }
    guard let maximumFlows = body.readInteger(as: UInt32.self), let nonce = body.readBytes(length: TunnelLimits.nonceOctets),
      let store = body.readInteger(as: UInt64.self), let node = TunnelHello.name(from: &body), !node.isEmpty,
      let peer = TunnelHello.name(from: &body), body.readableBytes == 0
    else { throw .malformed(.hello) }
    self.init(version: version, node: NodeID(node), peer: NodeID(peer), maximumFlows: maximumFlows, nonce: nonce, store: store)
  }

  fileprivate static func name(from body: inout ByteBuffer) -> String? {
    guard let length = body.readInteger(as: UInt8.self), Int(length) <= TunnelLimits.nameOctets,
      let octets = body.readBytes(length: Int(length)),
      let name = String(validating: octets, as: UTF8.self), name == name.printable
    else { return nil }
    return name
  }
}

extension PeerBelief {
  fileprivate func write(into buffer: inout ByteBuffer) {
    precondition((1...TunnelLimits.namesAtOnce).contains(names.count))
    buffer.writeInteger(store)
    TunnelHello.write(peer, into: &buffer)
    for name in names { name.write(into: &buffer) }
  }

  fileprivate init?(from body: inout ByteBuffer) {
    guard let store = body.readInteger(as: UInt64.self), store != 0, let peer = TunnelHello.name(from: &body), !peer.isEmpty else {
      return nil
    }
    let (count, rest) = body.readableBytes.quotientAndRemainder(dividingBy: ChunkName.octets)
    guard (1...TunnelLimits.namesAtOnce).contains(count), rest == 0 else { return nil }
    var names: [ChunkName] = []
    names.reserveCapacity(count)
    while let name = ChunkName(from: &body) { names.append(name) }
    self.init(peer: NodeID(peer), store: store, names: names)
  }
}

extension String {
  /// Without what could forge a line of a log.
  var printable: String { String(unicodeScalars.filter { $0.value >= 32 && $0.value != 127 }) }
}
