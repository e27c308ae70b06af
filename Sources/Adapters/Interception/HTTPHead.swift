import NIOCore

/// Finds and cuts the head of an HTTP/1 message: the lines up to the first empty one. Nothing of the fields is needed for CONNECT but that they are well formed.
enum HTTPHead {
  enum Found: Equatable {
    case needMore
    case tooLong
    case malformed
    /// The first line, without its end.
    case line(String)
  }

  /// Takes the head off `bytes` once it is complete, else leaves them as they are. RFC 9112 section 2.2: a bare LF ends a line too.
  static func take(from bytes: inout ByteBuffer) -> Found {
    let view = bytes.readableBytesView.prefix(InterceptionLimits.headOctets)
    var lineStart = view.startIndex
    var firstLine: Range<Int>?
    var index = view.startIndex
    while index < view.endIndex {
      defer { index += 1 }
      let octet = view[index]
      if octet == 0 { return .malformed }
      guard octet == UInt8(ascii: "\n") else { continue }
      var end = index
      if end > lineStart, view[end - 1] == UInt8(ascii: "\r") { end -= 1 }
      if let line = firstLine {
        if end == lineStart {
          let text = String(decoding: view[line], as: UTF8.self)
          bytes.moveReaderIndex(to: index + 1)
          return .line(text)
        }
        // RFC 9112 section 5: a field line is `name: value`; a fold (section 5.2) begins with white space and belongs to the line before.
        let isFold = view[lineStart] == UInt8(ascii: " ") || view[lineStart] == UInt8(ascii: "\t")
        guard isFold || view[lineStart..<end].dropFirst().contains(UInt8(ascii: ":")) else { return .malformed }
      } else {
        guard end > lineStart else { return .malformed }
        firstLine = lineStart..<end
      }
      lineStart = index + 1
    }
    return bytes.readableBytes >= InterceptionLimits.headOctets ? .tooLong : .needMore
  }
}
