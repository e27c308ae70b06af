import CZstd
import NIOCore

/// What both ends agree on, and what one flow may cost.
package enum ZstdSettings {
  /// Where nobody says another (`CompressionEffort`). Level 1: 280 MB/s on one core with a flush for each batch; level 3 packs text a third better at the same speed, but costs twice the memory.
  package static let level: Int32 = 1
  /// The window: 2^18 = 256 KiB. With its tables a compressor is about 0.5 MiB, a decompressor 0.4 MiB.
  package static let windowLog: Int32 = 18
}

/// The octets are no zstd stream, or one that this end does not take.
package enum DecompressionError: Error, Hashable, Sendable, CustomStringConvertible {
  case corrupt(String)
  /// More octets would come out than the sender may send.
  case tooLarge(limit: Int)

  package var description: String {
    switch self {
    case .corrupt(let what): "compressed data that cannot be read: \(what)"
    case .tooLarge(let limit): "compressed data that grows beyond \(limit) octets"
    }
  }
}

/// One zstd stream, the packing end. It owns its C context: made in `init`, freed in `deinit`, and being non-copyable nobody else has it.
package struct ZstdCompressor: ~Copyable {
  private let context: OpaquePointer

  /// Nil without memory.
  package init?(level: Int32 = ZstdSettings.level) {
    guard let context = ZSTD_createCCtx() else { return nil }
    self.context = context
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level)
    ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, ZstdSettings.windowLog)
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 0)
  }

  deinit { ZSTD_freeCCtx(context) }

  package enum Ending {
    /// The decompressor can give out everything that went in so far.
    case flush
    /// And the zstd frame is over; the next octets begin another one.
    case frame
  }

  /// Appends what `bytes` become to `output`.
  package mutating func compress(_ bytes: ByteBuffer, _ ending: Ending, into output: inout ByteBuffer) {
    let directive = ending == .flush ? ZSTD_e_flush : ZSTD_e_end
    bytes.withUnsafeReadableBytes { source in
      var input = ZSTD_inBuffer(src: source.baseAddress, size: source.count, pos: 0)
      var left = 1
      while left > 0 {
        // ZSTD_compressBound is what one call needs at most; the loop is for correctness, not for speed.
        output.writeWithUnsafeMutableBytes(minimumWritableBytes: ZSTD_compressBound(source.count - input.pos) + 64) { target in
          var result = ZSTD_outBuffer(dst: target.baseAddress, size: target.count, pos: 0)
          left = ZSTD_compressStream2(context, &result, &input, directive)
          // Only a wrong parameter or a lack of memory for the tables, which the first call allocates, can fail here.
          precondition(ZSTD_isError(left) == 0, "zstd cannot compress: \(String(cString: ZSTD_getErrorName(left)))")
          return result.pos
        }
      }
    }
  }
}

/// One zstd stream, the unpacking end. It owns its C context as `ZstdCompressor` does.
package struct ZstdDecompressor: ~Copyable {
  private let context: OpaquePointer

  /// Nil without memory.
  package init?() {
    guard let context = ZSTD_createDCtx() else { return nil }
    self.context = context
    // A frame that asks for a larger window is refused, and with it the memory it would take.
    ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, ZstdSettings.windowLog)
  }

  deinit { ZSTD_freeDCtx(context) }

  /// Appends what `bytes` stand for to `output`, at most `limit` octets; true if the zstd frame is over.
  package mutating func decompress(_ bytes: ByteBuffer, into output: inout ByteBuffer, atMost limit: Int) throws(DecompressionError) -> Bool
  {
    var outcome: Result<Bool, DecompressionError> = .success(false)
    bytes.withUnsafeReadableBytes { source in
      var input = ZSTD_inBuffer(src: source.baseAddress, size: source.count, pos: 0)
      // One octet more than allowed: if it gets used, there was too much.
      output.writeWithUnsafeMutableBytes(minimumWritableBytes: limit + 1) { target in
        var result = ZSTD_outBuffer(dst: target.baseAddress, size: limit + 1, pos: 0)
        while true {
          let before = (input.pos, result.pos)
          let left = ZSTD_decompressStream(context, &result, &input)
          if ZSTD_isError(left) != 0 {
            outcome = .failure(.corrupt(String(cString: ZSTD_getErrorName(left))))
            return 0
          }
          if result.pos > limit {
            outcome = .failure(.tooLarge(limit: limit))
            return 0
          }
          outcome = .success(left == 0)
          // All input taken and room left in the output: zstd has nothing more to give out.
          if input.pos == input.size || (input.pos, result.pos) == before { break }
        }
        if input.pos < input.size { outcome = .failure(.corrupt("the stream stands still")) }
        return result.pos
      }
    }
    return try outcome.get()
  }
}
