import NIOCore

/// Cuts a `text/event-stream` (WHATWG HTML, section 9.2.6) into the data of its events, whatever pieces it arrives in.
///
/// Only `data` means something here; comments are the keep-alive, and the other fields (`event`, `id`, `retry`) are ignored: a node that comes
/// back is told everything that still holds, so there is nothing to resume from.
package struct OrderStream {
  /// An event that grows past the limit: the far side is no controller of ours, or broken.
  package struct EventTooLong: Error {}

  private static let lineFeed = UInt8(ascii: "\n")
  private static let carriageReturn = UInt8(ascii: "\r")
  private static let field = Array("data".utf8)

  private let maximumOctets: Int
  private var buffer = ByteBuffer()
  /// Octets of the buffer that are known to hold no end of a line.
  private var scanned = 0
  private var data: ByteBuffer?
  /// The last line ended with CR: a LF that follows belongs to it.
  private var skipsLineFeed = false

  package init(maximumOctets: Int) { self.maximumOctets = maximumOctets }

  package mutating func append(_ bytes: ByteBuffer) {
    buffer.discardReadBytes()
    buffer.writeImmutableBuffer(bytes)
  }

  /// The data of the next event that is complete, nil if none is.
  package mutating func next() throws(EventTooLong) -> ByteBuffer? {
    while let line = nextLine() {
      if line.readableBytes == 0 {
        guard let event = data else { continue }  // a keep-alive's blank line
        data = nil
        return event
      }
      take(line)
      if let data, data.readableBytes > maximumOctets { throw EventTooLong() }
    }
    if buffer.readableBytes > maximumOctets { throw EventTooLong() }
    return nil
  }

  private mutating func nextLine() -> ByteBuffer? {
    if skipsLineFeed, let first = buffer.getInteger(at: buffer.readerIndex, as: UInt8.self) {
      skipsLineFeed = false
      if first == OrderStream.lineFeed { buffer.moveReaderIndex(forwardBy: 1) }
    }
    let view = buffer.readableBytesView
    let start = view.startIndex + min(scanned, view.count)
    guard let end = view[start...].firstIndex(where: { $0 == OrderStream.lineFeed || $0 == OrderStream.carriageReturn }) else {
      scanned = view.count
      return nil
    }
    skipsLineFeed = view[end] == OrderStream.carriageReturn
    scanned = 0
    let line = buffer.readSlice(length: end - view.startIndex)
    buffer.moveReaderIndex(forwardBy: 1)
    return line
  }

  private mutating func take(_ line: ByteBuffer) {
    var line = line
    let bytes = line.readableBytesView
    let name = bytes.prefix { $0 != UInt8(ascii: ":") }
    guard name.elementsEqual(OrderStream.field) else { return }  // a comment has an empty name
    line.moveReaderIndex(forwardBy: min(name.count + 1, line.readableBytes))
    if line.getInteger(at: line.readerIndex, as: UInt8.self) == UInt8(ascii: " ") { line.moveReaderIndex(forwardBy: 1) }
    if data == nil { data = ByteBuffer() } else { data?.writeInteger(OrderStream.lineFeed) }
    data?.writeImmutableBuffer(line)
  }
}
