/// An IPv4 or IPv6 address, without a zone.
package enum IPAddress: Hashable, Sendable {
  case v4(UInt32)
  case v6(high: UInt64, low: UInt64)

  /// Reads dotted decimal (RFC 6943 strict form: four numbers, no leading zeros) or RFC 4291 text. Nil for anything else.
  package init?(_ text: some StringProtocol) {
    if text.contains(":") {
      guard let words = IPAddress.words(ofVersion6: String(text)) else { return nil }
      let high = words[0..<4].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
      let low = words[4..<8].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
      self = .v6(high: high, low: low)
    } else {
      guard let value = IPAddress.value(ofVersion4: String(text)) else { return nil }
      self = .v4(value)
    }
  }

  private static func value(ofVersion4 text: String) -> UInt32? {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 4 else { return nil }
    var value: UInt32 = 0
    for part in parts {
      guard (1...3).contains(part.count), part.utf8.allSatisfy({ (48...57).contains($0) }), part.count == 1 || part.first != "0",
        let octet = UInt8(part)
      else { return nil }
      value = value << 8 | UInt32(octet)
    }
    return value
  }

  private static func words(ofVersion6 text: String) -> [UInt16]? {
    var text = text
    if text.contains("."), let colon = text.lastIndex(of: ":") {  // the mixed form x:x:x:x:x:x:d.d.d.d
      guard let tail = value(ofVersion4: String(text[text.index(after: colon)...])) else { return nil }
      text = text[...colon] + String(tail >> 16, radix: 16) + ":" + String(tail & 0xffff, radix: 16)
    }
    func group(_ part: Substring) -> [UInt16]? {
      guard !part.isEmpty else { return [] }
      var words: [UInt16] = []
      for word in part.split(separator: ":", omittingEmptySubsequences: false) {
        guard (1...4).contains(word.count), !word.hasPrefix("+"), let value = UInt16(word, radix: 16) else { return nil }
        words.append(value)
      }
      return words
    }
    guard let gap = text.firstRange(ofDoubleColon: ()) else {
      guard let words = group(Substring(text)), words.count == 8 else { return nil }
      return words
    }
    guard let head = group(text[..<gap.lowerBound]), let tail = group(text[gap.upperBound...]), head.count + tail.count < 8 else {
      return nil
    }
    return head + [UInt16](repeating: 0, count: 8 - head.count - tail.count) + tail
  }
}

extension IPAddress {
  package var isVersion6: Bool { if case .v6 = self { true } else { false } }

  /// 0.0.0.0 or ::, which is every address of a machine when it listens, and none that others could dial.
  package var isUnspecified: Bool {
    switch self {
    case .v4(let value): value == 0
    case .v6(let high, let low): high == 0 && low == 0
    }
  }

  /// 127.0.0.0/8 (RFC 1122 section 3.2.1.3) or ::1 (RFC 4291 section 2.5.3).
  package var isLoopback: Bool {
    switch self {
    case .v4(let value): value >> 24 == 127
    case .v6(let high, let low): high == 0 && low == 1
    }
  }
}

extension IPAddress {
  /// Network order: 4 or 16 octets.
  package var octets: [UInt8] {
    switch self {
    case .v4(let value): withUnsafeBytes(of: value.bigEndian) { Array($0) }
    case .v6(let high, let low): withUnsafeBytes(of: (high.bigEndian, low.bigEndian)) { Array($0) }
    }
  }

  package init?(octets: some Collection<UInt8>) {
    func number(_ part: some Collection<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
    switch octets.count {
    case 4: self = .v4(UInt32(number(octets)))
    case 16: self = .v6(high: number(octets.prefix(8)), low: number(octets.dropFirst(8)))
    default: return nil
    }
  }
}

extension IPAddress: CustomStringConvertible {
  package var description: String {
    switch self {
    case .v4(let value): return "\(value >> 24).\(value >> 16 & 255).\(value >> 8 & 255).\(value & 255)"
    case .v6(let high, let low):
      let words = [high >> 48, high >> 32, high >> 16, high, low >> 48, low >> 32, low >> 16, low].map { UInt16(truncatingIfNeeded: $0) }
      return IPAddress.shortest(words)
    }
  }

  /// RFC 5952: lower case, the longest run of two or more zero words becomes "::", the first one if two are equally long.
  private static func shortest(_ words: [UInt16]) -> String {
    var best = 0..<0
    var start = 0
    while start < 8 {
      var end = start
      while end < 8, words[end] == 0 { end += 1 }
      if end - start > max(best.count, 1) { best = start..<end }
      start = max(end, start + 1)
    }
    func text(_ part: ArraySlice<UInt16>) -> String { part.map { String($0, radix: 16) }.joined(separator: ":") }
    return best.isEmpty ? text(words[...]) : text(words[..<best.lowerBound]) + "::" + text(words[best.upperBound...])
  }
}

extension IPAddress: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let address = IPAddress(text) else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" is not an IP address")
    }
    self = address
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

/// An address and a TCP (or UDP) port: `10.1.0.3:7600`, `[2001:db8::1]:7600`.
package struct Endpoint: Hashable, Sendable, CustomStringConvertible {
  package var address: IPAddress
  package var port: UInt16

  package init(address: IPAddress, port: UInt16) {
    self.address = address
    self.port = port
  }

  package init?(_ text: some StringProtocol) {
    guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else { return nil }
    var host = text[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() } else if host.contains(":") { return nil }
    guard let address = IPAddress(host) else { return nil }
    self.init(address: address, port: port)
  }

  package var description: String {
    if case .v6 = address { return "[\(address)]:\(port)" }
    return "\(address):\(port)"
  }
}

extension IPPrefix: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let prefix = IPPrefix(text) else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" is not a prefix")
    }
    self = prefix
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

extension Endpoint: Codable {
  package init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    let text = try container.decode(String.self)
    guard let endpoint = Endpoint(text) else {
      throw DecodingError.dataCorruptedError(in: container, debugDescription: "\"\(text)\" is not ADDRESS:PORT")
    }
    self = endpoint
  }

  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }
}

/// A block of addresses, `10.2.0.0/24`.
package struct IPPrefix: Hashable, Sendable, CustomStringConvertible {
  package var base: IPAddress
  package var length: Int

  package init?(_ text: some StringProtocol) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count <= 2, let base = IPAddress(parts[0]) else { return nil }
    var widest = 128
    if case .v4 = base { widest = 32 }
    guard parts.count == 2 else {
      self.base = base
      length = widest
      return
    }
    guard let length = Int(parts[1]), (0...widest).contains(length) else { return nil }
    self.base = base
    self.length = length
  }

  /// The one address.
  package init(_ address: IPAddress) {
    base = address
    length = address.octets.count * 8
  }

  package func contains(_ address: IPAddress) -> Bool {
    switch (base, address) {
    case (.v4(let a), .v4(let b)): return length == 0 || (a ^ b) >> UInt32(32 - length) == 0
    case (.v6(let aHigh, let aLow), .v6(let bHigh, let bLow)):
      if length == 0 { return true }
      if length <= 64 { return (aHigh ^ bHigh) >> UInt64(64 - length) == 0 }
      return aHigh == bHigh && (aLow ^ bLow) >> UInt64(128 - length) == 0
    default: return false
    }
  }

  package var description: String { "\(base)/\(length)" }
}

extension String {
  fileprivate func firstRange(ofDoubleColon _: Void) -> Range<Index>? {
    var index = startIndex
    while index < endIndex {
      let next = self.index(after: index)
      if next < endIndex, self[index] == ":", self[next] == ":" { return index..<self.index(after: next) }
      index = next
    }
    return nil
  }
}
