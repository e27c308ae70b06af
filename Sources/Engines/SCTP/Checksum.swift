import CChecksum
import NIOCore

/// The checksum of an SCTP packet: CRC32c with the checksum field taken as zero (RFC 9260 section 6.8).
package enum Checksum {
  static let fieldOffset = 8

  static func compute(_ packet: ByteBuffer) -> UInt32 {
    packet.withUnsafeReadableBytes { bytes in
      let crc = longhaul_crc32c(0, bytes.baseAddress, fieldOffset)
      let zeros: UInt32 = 0
      let middle = withUnsafeBytes(of: zeros) { longhaul_crc32c(crc, $0.baseAddress, 4) }
      return longhaul_crc32c(middle, bytes.baseAddress?.advanced(by: PacketHeader.length), bytes.count - PacketHeader.length)
    }
  }

  /// Both ways over any octets, for a test that compares them; the hardware's is nil where there is none.
  package static func both(_ bytes: [UInt8]) -> (tables: UInt32, hardware: UInt32?) {
    bytes.withUnsafeBytes {
      (
        longhaul_crc32c_tables(0, $0.baseAddress, $0.count),
        longhaul_crc32c_has_hardware() ? longhaul_crc32c_hardware(0, $0.baseAddress, $0.count) : nil
      )
    }
  }
}
