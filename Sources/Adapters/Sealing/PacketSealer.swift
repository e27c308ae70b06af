import Crypto
import NIOCore

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// What sealing adds, and when it changes its keys.
package enum Sealing {
  /// The packet number, and AES-GCM's tag.
  package static let overhead = 8 + 16
  /// Octets of frames in a message of the exchange. INIT and INIT ACK with its cookie have a few hundred each.
  package static let maximumExchangeFrames = 8 << 10
  /// Packets under one key. 2^22 packets of 32 KiB are 2^33 blocks of AES: an attacker's advantage stays below 2^66 / 2^129 = 2^-63, where
  /// TLS (RFC 8446 section 5.5) allows 2^-57.
  package static let phaseLength: UInt64 = 1 << 22
}

/// Why a sealed packet was not taken. Each description is part of a line for a person.
package enum SealError: Error, Hashable, CustomStringConvertible {
  case cutShort
  case replayed(UInt64)
  case notAuthentic(UInt64)
  /// Its keys are not the present ones nor the following.
  case outOfPhase(UInt64)

  package var description: String {
    switch self {
    case .cutShort: "a sealed packet is cut short"
    case .replayed(let number): "sealed packet \(number) came twice"
    case .notAuthentic(let number): "sealed packet \(number) is damaged or forged"
    case .outOfPhase(let number): "sealed packet \(number) is of another key phase"
    }
  }
}

/// Seals the packets of one direction of one carrier. A number is never used twice, since nothing but `seal` moves it.
package struct PacketSealer: Sendable {
  private var keys: TrafficKeys
  package private(set) var number: UInt64

  init(keys: TrafficKeys, from number: UInt64) {
    self.keys = keys
    self.number = number
  }

  /// Appends number, ciphertext and tag: `packet.readableBytes + Sealing.overhead` octets.
  package mutating func seal(_ packet: ByteBuffer, into frame: inout ByteBuffer) {
    while number / Sealing.phaseLength > keys.phase { keys = keys.next }
    let box: AES.GCM.SealedBox
    do {
      let nonce = try keys.nonce(number)
      box = try packet.withUnsafeReadableBytes { try AES.GCM.seal($0, using: keys.key, nonce: nonce) }
    } catch {
      preconditionFailure("AES-GCM with a key and a nonce of ours cannot fail: \(error)")
    }
    frame.writeInteger(number)
    // The box is nonce, ciphertext and tag in one piece.
    if let combined = box.combined { combined.withUnsafeBytes { _ = frame.writeBytes(UnsafeRawBufferPointer(rebasing: $0.dropFirst(12))) } }
    number += 1
  }
}

/// Opens the packets of one direction of one carrier.
package struct PacketOpener: Sendable {
  private var keys: TrafficKeys
  private var window = ReplayWindow()

  init(keys: TrafficKeys) { self.keys = keys }

  /// The packet in a frame that `PacketSealer.seal` made. What is refused changes nothing.
  package mutating func open(_ frame: ByteBuffer) throws(SealError) -> ByteBuffer {
    var frame = frame
    guard frame.readableBytes >= Sealing.overhead, let number = frame.readInteger(as: UInt64.self) else { throw .cutShort }
    guard window.admits(number) else { throw .replayed(number) }
    let phase = number / Sealing.phaseLength
    guard phase == keys.phase || phase == keys.phase + 1 else { throw .outOfPhase(number) }
    let keys = phase == self.keys.phase ? self.keys : self.keys.next
    let plain: Data
    do {
      let nonce = try keys.nonce(number)
      plain = try frame.withUnsafeReadableBytes { octets in
        let tag = octets.count - 16
        let box = try AES.GCM.SealedBox(
          nonce: nonce, ciphertext: UnsafeRawBufferPointer(rebasing: octets[..<tag]), tag: UnsafeRawBufferPointer(rebasing: octets[tag...]))
        return try AES.GCM.open(box, using: keys.key)
      }
    } catch {
      throw .notAuthentic(number)
    }
    if phase != self.keys.phase { self.keys = keys }
    window.note(number)
    var packet = ByteBufferAllocator().buffer(capacity: plain.count)
    plain.withUnsafeBytes { _ = packet.writeBytes($0) }
    return packet
  }
}
