import NIOCore

/// What a client says inside TLS, before anything else.
package struct ExchangeRequest: Hashable, Sendable {
  package enum Purpose: UInt8, Sendable {
    /// A new session, with this secret.
    case open = 1
    /// Does the agent still know this session? Nothing else happens.
    case ask = 2
  }

  package var purpose: Purpose
  package var session: SealedSessionID
  /// 32 octets; zero when only asked.
  package var contribution: [UInt8]
  /// The client's first packets in their RFC 4571 frames: INIT.
  package var frames: ByteBuffer

  package init(_ purpose: Purpose, session: SealedSessionID, contribution: [UInt8]? = nil, frames: ByteBuffer = ByteBuffer()) {
    self.purpose = purpose
    self.session = session
    self.contribution = contribution ?? Array(repeating: 0, count: SessionSecret.contributionOctets)
    self.frames = frames
  }

  package func write(into buffer: inout ByteBuffer) {
    buffer.writeBytes(SealingMagic.exchange)
    buffer.writeInteger(purpose.rawValue)
    buffer.writeBytes(session.octets)
    buffer.writeBytes(contribution)
    buffer.writeFrames(frames)
  }

  /// Nil: more octets are needed, and the buffer is as it was.
  package static func read(from buffer: inout ByteBuffer) throws(SealingViolation) -> ExchangeRequest? {
    let fixed = 4 + 1 + SealedSessionID.octetCount + SessionSecret.contributionOctets
    guard let rest = try buffer.lengthOfExchange(fixed: fixed) else { return nil }
    buffer.moveReaderIndex(forwardBy: 4)
    guard let purpose = buffer.readInteger(as: UInt8.self).flatMap(Purpose.init(rawValue:)),
      let session = buffer.readBytes(length: SealedSessionID.octetCount).flatMap(SealedSessionID.init),
      let contribution = buffer.readBytes(length: SessionSecret.contributionOctets), let frames = buffer.readFrames(rest)
    else { throw .notAnExchange }
    return ExchangeRequest(purpose, session: session, contribution: contribution, frames: frames)
  }
}

/// What the agent answers inside TLS.
package struct ExchangeAnswer: Hashable, Sendable {
  package enum Verdict: UInt8, Sendable {
    case opened = 1
    /// It knows the session that was asked for.
    case known = 2
    case unknown = 3
    /// It has as many sessions as it takes, or one of this name.
    case refused = 4
  }

  package var verdict: Verdict
  package var contribution: [UInt8]
  /// The agent's first packets in their RFC 4571 frames: INIT ACK.
  package var frames: ByteBuffer

  package init(_ verdict: Verdict, contribution: [UInt8]? = nil, frames: ByteBuffer = ByteBuffer()) {
    self.verdict = verdict
    self.contribution = contribution ?? Array(repeating: 0, count: SessionSecret.contributionOctets)
    self.frames = frames
  }

  package func write(into buffer: inout ByteBuffer) {
    buffer.writeBytes(SealingMagic.exchange)
    buffer.writeInteger(verdict.rawValue)
    buffer.writeBytes(contribution)
    buffer.writeFrames(frames)
  }

  /// Nil: more octets are needed, and the buffer is as it was.
  package static func read(from buffer: inout ByteBuffer) throws(SealingViolation) -> ExchangeAnswer? {
    guard let rest = try buffer.lengthOfExchange(fixed: 4 + 1 + SessionSecret.contributionOctets) else { return nil }
    buffer.moveReaderIndex(forwardBy: 4)
    guard let verdict = buffer.readInteger(as: UInt8.self).flatMap(Verdict.init(rawValue:)),
      let contribution = buffer.readBytes(length: SessionSecret.contributionOctets), let frames = buffer.readFrames(rest)
    else { throw .notAnExchange }
    return ExchangeAnswer(verdict, contribution: contribution, frames: frames)
  }
}

extension ByteBuffer {
  fileprivate mutating func writeFrames(_ frames: ByteBuffer) {
    precondition(frames.readableBytes <= Sealing.maximumExchangeFrames)
    writeInteger(UInt16(frames.readableBytes))
    writeImmutableBuffer(frames)
  }

  /// The length of the frames in a message whose fixed part has so many octets; nil until all of it is there.
  fileprivate func lengthOfExchange(fixed: Int) throws(SealingViolation) -> Int? {
    let common = min(readableBytes, 4)
    guard getBytes(at: readerIndex, length: common) == Array(SealingMagic.exchange.prefix(common)) else { throw .notAnExchange }
    guard let length = getInteger(at: readerIndex + fixed, as: UInt16.self) else { return nil }
    guard length <= Sealing.maximumExchangeFrames else { throw .notAnExchange }
    return readableBytes >= fixed + 2 + Int(length) ? Int(length) : nil
  }

  fileprivate mutating func readFrames(_ length: Int) -> ByteBuffer? {
    moveReaderIndex(forwardBy: 2)
    return readSlice(length: length)
  }
}

/// What a client says first on a later carrier, in the clear: whose it is, and which keys.
package struct SealedPreface: Hashable, Sendable {
  package static let octetCount = 4 + SealedSessionID.octetCount + 4

  package var session: SealedSessionID
  /// 2 or more, and never used before in this session; the carrier of the exchange is number 1.
  package var carrier: UInt32

  package init(session: SealedSessionID, carrier: UInt32) {
    self.session = session
    self.carrier = carrier
  }

  package func write(into buffer: inout ByteBuffer) {
    buffer.writeBytes(SealingMagic.carrier)
    buffer.writeBytes(session.octets)
    buffer.writeInteger(carrier)
  }
}

/// What the first octets of an accepted connection say that it is.
package enum CarrierOpening: Hashable, Sendable {
  /// A TLS handshake record (RFC 8446 section 5.1).
  case exchange
  case sealed(SealedPreface)
  /// Neither: a client without certificates, or a stranger.
  case open

  /// Nil: more octets are needed. Only a preface is taken out of the buffer.
  package static func read(from buffer: inout ByteBuffer) -> CarrierOpening? {
    guard let first = buffer.getInteger(at: buffer.readerIndex, as: UInt8.self) else { return nil }
    if first == 0x16 { return .exchange }
    let common = min(buffer.readableBytes, 4)
    guard let start = buffer.getBytes(at: buffer.readerIndex, length: common), start == Array(SealingMagic.carrier.prefix(common)) else {
      return .open
    }
    guard buffer.readableBytes >= SealedPreface.octetCount else { return nil }
    buffer.moveReaderIndex(forwardBy: 4)
    guard let session = buffer.readBytes(length: SealedSessionID.octetCount).flatMap(SealedSessionID.init),
      let carrier = buffer.readInteger(as: UInt32.self)
    else { return nil }
    return .sealed(SealedPreface(session: session, carrier: carrier))
  }
}

/// What is said by a frame of one octet, shorter than any sealed packet.
package enum SealedNotice: UInt8, Sendable {
  /// The agent does not know the session. Nobody has signed this, so the client asks again inside TLS before it believes it.
  case unknownSession = 1
}

package enum SealingViolation: Error, Hashable, CustomStringConvertible {
  case notAnExchange

  package var description: String { "what came inside TLS is not Longhaul's key exchange, or of another version" }
}

enum SealingMagic {
  static let exchange = Array("LHX1".utf8)
  static let carrier = Array("LHS1".utf8)
}
