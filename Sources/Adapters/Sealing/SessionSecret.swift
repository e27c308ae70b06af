import Crypto
import NIOCore

/// Names a sealed session on the wire: 16 random octets of the client's choice.
package struct SealedSessionID: Hashable, Sendable, CustomStringConvertible {
  package static let octetCount = 16
  package let octets: [UInt8]

  package init?(_ octets: [UInt8]) {
    guard octets.count == SealedSessionID.octetCount else { return nil }
    self.octets = octets
  }

  package static func random() -> SealedSessionID { SealedSessionID(unchecked: SessionSecret.randomOctets(octetCount)) }

  private init(unchecked octets: [UInt8]) { self.octets = octets }

  /// The first four octets: enough for a log line.
  package var description: String { octets.prefix(4).map { String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined() }
}

/// Which end of a session seals.
package enum SealedDirection: UInt8, Sendable {
  case toAgent = 0
  case toClient = 1
}

/// What the two ends of a session share after the exchange inside TLS; every other key of the session comes from it (docs/wire/sealing.md).
package struct SessionSecret: Sendable {
  /// What each end contributes.
  package static let contributionOctets = 32

  private let root: SymmetricKey

  /// - Parameters:
  ///   - client, agent: the contributions, 32 random octets each.
  ///   - clientName, agentName: the names in the certificates that TLS has verified. They stand in the derivation, so that both ends
  ///     agree on who they are or on nothing at all.
  package init(client: [UInt8], agent: [UInt8], session: SealedSessionID, clientName: String, agentName: String) {
    precondition(client.count == SessionSecret.contributionOctets && agent.count == SessionSecret.contributionOctets)
    var info = Array("longhaul 1 session".utf8)
    for name in [clientName, agentName] {
      let octets = Array(name.utf8)
      info += [UInt8(truncatingIfNeeded: octets.count >> 8), UInt8(truncatingIfNeeded: octets.count)] + octets
    }
    root = HKDF<SHA256>.deriveKey(
      inputKeyMaterial: SymmetricKey(data: client + agent), salt: session.octets, info: info, outputByteCount: SHA256.byteCount)
  }

  /// The endpoint pair shared key of SCTP AUTH (RFC 4895).
  package var associationKey: [UInt8] { expand(root, "longhaul 1 sctp auth", count: 32).withUnsafeBytes { Array($0) } }

  /// - Parameter first: the number of its first packet; a carrier begins with 0.
  package func sealer(carrier number: UInt32, _ direction: SealedDirection, from first: UInt64 = 0) -> PacketSealer {
    PacketSealer(keys: TrafficKeys(secret: trafficSecret(number, direction)), from: first)
  }

  package func opener(carrier number: UInt32, _ direction: SealedDirection) -> PacketOpener {
    PacketOpener(keys: TrafficKeys(secret: trafficSecret(number, direction)))
  }

  private func trafficSecret(_ number: UInt32, _ direction: SealedDirection) -> SymmetricKey {
    let octets = [direction.rawValue] + (0..<4).reversed().map { UInt8(truncatingIfNeeded: number >> (8 * UInt32($0))) }
    return expand(root, "longhaul 1 carrier", suffix: octets, count: 32)
  }

  /// Octets from the system's generator.
  package static func randomOctets(_ count: Int) -> [UInt8] {
    SymmetricKey(size: SymmetricKeySize(bitCount: count * 8)).withUnsafeBytes { Array($0) }
  }
}

/// The keys of one direction of one carrier, in one phase.
struct TrafficKeys: Sendable {
  private(set) var phase: UInt64 = 0
  private var secret: SymmetricKey
  private(set) var key: SymmetricKey
  private var mask: [UInt8]

  init(secret: SymmetricKey) {
    self.secret = secret
    key = expand(secret, "longhaul 1 key", count: 16)
    mask = expand(secret, "longhaul 1 iv", count: 12).withUnsafeBytes { Array($0) }
  }

  /// The keys of the following phase; those of this one cannot be had from them.
  var next: TrafficKeys {
    var next = TrafficKeys(secret: expand(secret, "longhaul 1 phase", count: 32))
    next.phase = phase + 1
    return next
  }

  /// The packet number under the mask, as in RFC 8446 section 5.3.
  func nonce(_ number: UInt64) throws -> AES.GCM.Nonce {
    var octets = mask
    for index in 0..<8 { octets[4 + index] ^= UInt8(truncatingIfNeeded: number >> (8 * UInt64(7 - index))) }
    return try AES.GCM.Nonce(data: octets)
  }
}

private func expand(_ key: SymmetricKey, _ label: String, suffix: [UInt8] = [], count: Int) -> SymmetricKey {
  HKDF<SHA256>.expand(pseudoRandomKey: key, info: Array(label.utf8) + suffix, outputByteCount: count)
}
