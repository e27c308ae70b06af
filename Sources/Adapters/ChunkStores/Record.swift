import CChecksum
import Crypto
import Dedup
import NIOCore

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// One chunk as it stands in a segment: a header, then the chunk's octets. Numbers are big-endian.
///
///     0  magic    4
///     4  CRC32C   4    of octets 8 to 51: tells a header from anything else while a segment is scanned
///     8  tag     16    AES-GCM over octets 24 to the end, with the place as its nonce (`RecordKey`)
///    24  length   4    octets of the chunk
///    28  peers    2    who was believed to have it when it was written
///    30  0        2
///    32  name    20
///    52  the chunk
struct Record: Equatable {
  static let header = 52
  static let magic: UInt32 = 0x4c68_4331  // "LhC1"
  private static let checked = 8
  fileprivate static let tag = 8
  fileprivate static let authenticated = 24

  var name: ChunkName
  var octets: Int
  var peers: UInt16

  /// With the header.
  var length: Int { Record.header + octets }

  /// Writes all of the header but its checksum and tag, which `RecordKey.seal` adds.
  func write(to memory: UnsafeMutableRawBufferPointer) {
    memory.storeBytes(of: Record.magic.bigEndian, toByteOffset: 0, as: UInt32.self)
    memory.storeBytes(of: UInt32(octets).bigEndian, toByteOffset: 24, as: UInt32.self)
    memory.storeBytes(of: peers.bigEndian, toByteOffset: 28, as: UInt16.self)
    memory.storeBytes(of: 0, toByteOffset: 30, as: UInt16.self)
    memory.storeBytes(of: name.high.bigEndian, toByteOffset: 32, as: UInt64.self)
    memory.storeBytes(of: name.middle.bigEndian, toByteOffset: 40, as: UInt64.self)
    memory.storeBytes(of: name.low.bigEndian, toByteOffset: 48, as: UInt32.self)
  }

  init(name: ChunkName, octets: Int, peers: UInt16) {
    self.name = name
    self.octets = octets
    self.peers = peers
  }

  /// What a header says, whether or not it is true. Nil where it cannot be one.
  init?(unchecked memory: UnsafeRawBufferPointer) {
    guard memory.count >= Record.header, memory.number(at: 0, UInt32.self) == Record.magic else { return nil }
    let octets = Int(memory.number(at: 24, UInt32.self))
    guard (1...ChunkLimits.maximum).contains(octets) else { return nil }
    let name = ChunkName(
      high: memory.number(at: 32, UInt64.self), middle: memory.number(at: 40, UInt64.self), low: memory.number(at: 48, UInt32.self))
    self.init(name: name, octets: octets, peers: memory.number(at: 28, UInt16.self))
  }

  /// A header whose checksum is right.
  init?(scanned memory: UnsafeRawBufferPointer) {
    self.init(unchecked: memory)
    guard memory.number(at: 4, UInt32.self) == Record.checksum(of: memory) else { return nil }
  }

  fileprivate static func checksum(of memory: UnsafeRawBufferPointer) -> UInt32 {
    let part = UnsafeRawBufferPointer(rebasing: memory[checked..<header])
    return longhaul_crc32c(0, part.baseAddress, part.count)
  }
}

/// Makes and checks the records' tags: GMAC (NIST SP 800-38D: AES-GCM that encrypts nothing) under the store's own key, over name, length and octets, with the place as the nonce.
///
/// Any damage is found, and so is a record in another place than its own (a file that was renamed, a sector that was written elsewhere). A chunk whose octets look like a record
/// (anyone may send one) is taken for one by a scan at most, and never read: its maker has not the key. It costs 0.17 s of CPU a GB, SHA-256 would cost 0.57 to 0.8; and the
/// caller need not compute the name again, which is salted with a tenant's secret that the store does not know.
struct RecordKey: Sendable {
  static let octets = 16
  private let key: SymmetricKey

  init(_ octets: [UInt8]) { key = SymmetricKey(data: octets) }

  /// Nonces of 12 octets: each place is written once under one key.
  private func nonce(_ place: Place) throws -> AES.GCM.Nonce {
    try withUnsafeBytes(of: (place.packed.bigEndian, UInt32(0))) { try AES.GCM.Nonce(data: UnsafeRawBufferPointer(rebasing: $0[..<12])) }
  }

  /// Completes a record's header. `memory` is the whole record.
  func seal(_ memory: UnsafeMutableRawBufferPointer, at place: Place) {
    do {
      let message = UnsafeRawBufferPointer(rebasing: memory[Record.authenticated...])
      let box = try AES.GCM.seal([UInt8](), using: key, nonce: nonce(place), authenticating: message)
      UnsafeMutableRawBufferPointer(rebasing: memory[Record.tag..<Record.authenticated]).copyBytes(from: box.tag)
    } catch {
      preconditionFailure("AES-GCM with a key and a nonce of ours cannot fail: \(error)")
    }
    memory.storeBytes(of: Record.checksum(of: UnsafeRawBufferPointer(memory)).bigEndian, toByteOffset: 4, as: UInt32.self)
  }

  /// True if this is the record of this name and length that was sealed for this place.
  func isAuthentic(_ memory: UnsafeRawBufferPointer, name: ChunkName, octets: Int, at place: Place) -> Bool {
    guard let record = Record(unchecked: memory), record.name == name, record.octets == octets, memory.count == record.length else {
      return false
    }
    do {
      let tag = UnsafeRawBufferPointer(rebasing: memory[Record.tag..<Record.authenticated])
      let box = try AES.GCM.SealedBox(nonce: nonce(place), ciphertext: [UInt8](), tag: tag)
      _ = try AES.GCM.open(box, using: key, authenticating: UnsafeRawBufferPointer(rebasing: memory[Record.authenticated...]))
      return true
    } catch {
      return false
    }
  }
}

extension UnsafeRawBufferPointer {
  /// Big-endian, at any alignment.
  func number<Number: FixedWidthInteger>(at offset: Int, _: Number.Type) -> Number {
    Number(bigEndian: loadUnaligned(fromByteOffset: offset, as: Number.self))
  }
}
