/// Reads the headers of one segment, front to back, when no checkpoint knows it.
///
/// Where no header stands that should, the next one is searched for octet by octet. Chunks are not verified here: they are when they are read.
struct SegmentScan {
  struct Outcome {
    /// Octets within the file that belong to no record.
    var skipped = 0
    /// Where the last whole record ends; what follows is torn. Nil where reading failed (with errno).
    var end: Int?
  }

  let file: SegmentFile

  func run(from start: Int, found: (Record, Place) -> Void) -> Outcome {
    var outcome = Outcome(end: start)
    let window = UnsafeMutableRawBufferPointer.allocate(byteCount: DiskStoreLimits.batch, alignment: 16)
    defer { window.deallocate() }
    // [position, filled) of the file is in the window, from its start.
    var position = start
    var filled = 0
    var isAtEnd = false
    while true {
      let count = FileOctets.read(file.descriptor, into: window, at: position)
      guard count >= 0 else {
        outcome.end = nil
        return outcome
      }
      filled = count
      isAtEnd = count < window.count
      var offset = 0
      // A record that reaches over the window's end is looked at again from its start.
      while filled - offset >= Record.header {
        let rest = UnsafeRawBufferPointer(rebasing: window[offset..<filled])
        guard let record = Record(scanned: rest) else {
          offset += 1
          continue
        }
        if record.length > rest.count { break }
        found(record, Place(segment: file.number, offset: UInt32(position + offset)))
        outcome.skipped += position + offset - (outcome.end ?? 0)
        offset += record.length
        outcome.end = position + offset
      }
      if isAtEnd { return outcome }
      position += offset
    }
  }
}
