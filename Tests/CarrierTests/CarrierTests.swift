import Carriers
import NIOCore
import NIOEmbedded
import SCTP
import Testing
import Vocabulary

@Suite("A carrier")
struct CarrierTests {
  /// What a carrier has told its owner.
  final class Record {
    var packets: [ByteBuffer] = []
    var closed: [String] = []
  }

  static func make() throws -> (EmbeddedChannel, Carrier, Record) {
    let record = Record()
    let carrier = Carrier(
      id: CarrierID(1),
      events: Carrier.Events(
        packet: { record.packets.append($1) }, readComplete: { _ in }, writability: { _, _ in }, closed: { record.closed.append($1) }))
    let channel = EmbeddedChannel()
    try channel.pipeline.syncOperations.addHandler(carrier)
    return (channel, carrier, record)
  }

  static func framed(_ packets: [ByteBuffer]) -> ByteBuffer {
    var stream = ByteBuffer()
    for packet in packets {
      stream.writeInteger(UInt16(packet.readableBytes))
      stream.writeImmutableBuffer(packet)
    }
    return stream
  }

  @Test("cuts the stream into the packets that were sent, however it arrives", arguments: [1, 2, 3, 7, 1_000, 65_537, 200_000])
  func cuts(step: Int) throws {
    let (channel, _, record) = try Self.make()
    let sizes = [1, 12, 0, 65_535, 300, 4_096]
    let packets = sizes.enumerated().map { ByteBuffer(repeating: UInt8($0.offset + 1), count: $0.element) }
    var stream = Self.framed(packets)
    while let part = stream.readSlice(length: min(step, stream.readableBytes)), part.readableBytes > 0 { try channel.writeInbound(part) }
    #expect(record.packets == packets)
  }

  @Test("writes each packet behind its length, in 16 bits")
  func writes() throws {
    let (channel, carrier, _) = try Self.make()
    let packets = [ByteBuffer(string: "a"), ByteBuffer(repeating: 3, count: 65_535)]
    for packet in packets { carrier.write(packet) }
    carrier.flush()
    var stream = ByteBuffer()
    while var part = try channel.readOutbound(as: ByteBuffer.self) { stream.writeBuffer(&part) }
    #expect(stream == Self.framed(packets))
  }

  @Test("tells once that it has closed, and why")
  func closes() throws {
    let (channel, carrier, record) = try Self.make()
    carrier.close("fenced")
    carrier.close("again")
    channel.embeddedEventLoop.run()
    #expect(record.closed == ["fenced"])
    carrier.write(ByteBuffer(string: "late"))  // without effect, and without harm
  }
}
