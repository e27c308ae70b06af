import NIOCore
import SCTP

/// One message of a trial. What it holds follows from its number, the same way as in usrsctp-peer.c.
struct TrialMessage: Sendable {
  var stream: UInt16
  var size: Int
  var number: Int
  var isUnordered = false

  /// xorshift64 (Marsaglia 2003), eight octets a step.
  var payload: ByteBuffer {
    var bytes = ByteBufferAllocator().buffer(capacity: size + 7)
    var x = UInt64(number + 1) &* 0x9e37_79b9_7f4a_7c15
    for _ in stride(from: 0, to: size, by: 8) {
      x ^= x << 13
      x ^= x >> 7
      x ^= x << 17
      bytes.writeInteger(x, endianness: .little)
    }
    bytes.moveWriterIndex(to: size)
    return bytes
  }

  /// Of each size one, over so many streams.
  static func list(_ sizes: [Int], streams: Int, isUnordered: Bool = false) -> [TrialMessage] {
    sizes.enumerated().map {
      TrialMessage(stream: UInt16($0.offset % streams), size: $0.element, number: $0.offset, isUnordered: isUnordered)
    }
  }
}

/// What has gone, or come, one way: the sum of the messages' FNV-1a hashes over stream, place on the stream, identifier and octets. Two ends that agree have lost, doubled, changed and
/// mixed up nothing; unordered messages have no place.
struct TrialDigest: Sendable, Equatable, CustomStringConvertible {
  private(set) var sum: UInt64 = 0
  private(set) var messages = 0
  private var places: [UInt16: UInt32] = [:]

  mutating func add(_ stream: UInt16, isUnordered: Bool, _ identifier: UInt32, _ payload: ByteBuffer) {
    let place = isUnordered ? UInt32.max : places[stream, default: 0]
    if !isUnordered { places[stream] = place &+ 1 }
    var head = ByteBuffer()
    head.writeMultipleIntegers(stream, place, identifier)
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for part in [head, payload] {
      part.withUnsafeReadableBytes { for octet in $0 { hash = (hash ^ UInt64(octet)) &* 0x100_0000_01b3 } }
    }
    sum &+= hash
    messages += 1
  }

  /// The stream's counting begins anew (RFC 6525).
  mutating func reset(_ stream: UInt16) { places[stream] = nil }

  static func == (a: TrialDigest, b: TrialDigest) -> Bool { a.sum == b.sum }

  var description: String {
    let digits = String(sum, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }
}
