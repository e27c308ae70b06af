import NIOCore
import SCTP
import Vocabulary

/// Two honest ends and a network that loses, doubles, reorders, damages and cuts as the octets want. In the end, unless a packet was forged on the way, every message has come
/// once and in order on its stream, or both ends have ended.
package enum PairTarget {
  /// TCP, datagrams; the same with I-DATA, a scheduler and path MTU discovery.
  private static let fresh: [Pair] = (0..<4).map { Pair(isDatagram: $0 & 1 == 1, isInterleaved: $0 & 2 == 2, seed: 12) }
  private static let established: [Pair] = fresh.map { fresh in
    var pair = fresh
    pair.runQuietly(for: .seconds(1.0))
    return pair
  }

  private struct Message: Equatable {
    var stream: UInt16
    var isUnordered: Bool
    /// It may be given up.
    var isLimited: Bool
    var payload: ByteBuffer
  }

  package static func run(_ bytes: [UInt8]) {
    var script = Script(bytes)
    let choice = script.byte()
    var pair = choice & 4 == 0 ? established[Int(choice & 3)] : fresh[Int(choice & 3)]
    var sent: (a: [Message], z: [Message]) = ([], [])
    var number: UInt32 = 0
    var isEnding = false
    pair.settle()
    var steps = 0
    while !script.isOver, steps < 300 {
      steps += 1
      let side = script.flag() ? Pair.Side.a : .z
      let now = pair.now
      switch script.below(24) {
      case 0...6: for _ in 0..<(1 + script.below(8)) { pair.deliver(to: side, at: 0) }
      case 7: pair.deliver(to: side, at: Int(script.byte()))
      case 8: pair.deliver(to: side, at: Int(script.byte()), keeps: true)
      case 9: pair.lose(to: side, at: Int(script.byte()))
      case 10:
        let (place, octet, mask, forges) = (Int(script.byte()), Int(script.half() % 256), script.byte(), script.byte() > 128)
        // On TCP a damaged packet is nothing that the network does: its checksum lets none through.
        if pair.isDatagram || forges { pair.damage(to: side, at: place, octet: octet, mask: mask, forges: forges) }
      case 11...14:
        number += 1
        var payload = ByteBuffer(integer: number)
        payload.writeRepeatingByte(UInt8(truncatingIfNeeded: number), count: script.size())
        let (stream, flags) = (UInt16(script.byte() % 6), script.byte())
        let message = Message(stream: stream, isUnordered: flags & 3 == 3, isLimited: flags & 24 == 24, payload: payload)
        let send: (inout Association) -> Void = {
          guard
            $0.send(
              payload, stream: StreamID(stream), protocolIdentifier: 1, isUnordered: message.isUnordered, endOfWrite: flags & 4 == 4,
              reliability: message.isLimited ? (flags & 32 == 32 ? .retransmissions(1) : .until(now + .milliseconds(200 as Int64))) : .full)
          else { return }
          if side == .a { sent.a.append(message) } else { sent.z.append(message) }
        }
        if side == .a { pair.a.with(send) } else { pair.z.with(send) }
      case 15: pair.now = now + .milliseconds(Int64(script.byte()) * (script.flag() ? 1 : 20))
      case 16: if let next = [pair.a.deadline, pair.z.deadline].compactMap({ $0 }).min() { pair.now = max(now, next) }
      case 17 where !pair.isDatagram:
        let id = pair.dial()
        pair.a.with { $0.move(to: id, localAddress: Subject.theirs, peerAddress: Subject.ours, at: now) }
      case 18 where !pair.isDatagram:
        let flags = script.byte()
        pair.cut(CarrierID(1 + UInt64(script.byte()) % pair.lastCarrier), atA: flags & 1 == 1, atZ: flags & 2 == 2)
      case 19 where !pair.isDatagram:
        let (id, isWritable) = (CarrierID(pair.lastCarrier), script.flag())
        if side == .a { pair.a.with { $0.carrierWritable(id, isWritable) } } else { pair.z.with { $0.carrierWritable(id, isWritable) } }
      case 20:
        let address = IPAddress.v4(0x0a01_0000 | UInt32(script.byte() % 8))
        let announces = script.flag()
        let ask: (inout Association) -> Void = {
          if announces { $0.announce(address, at: now) } else { $0.withdraw(address, at: now) }
        }
        // On datagrams an announced address becomes a path, and nobody is there.
        if !pair.isDatagram { if side == .a { pair.a.with(ask) } else { pair.z.with(ask) } }
      case 21 where !pair.isDatagram && script.flag():
        let id = pair.dial()
        pair.a.with { _ = $0.park(on: id, localAddress: Subject.theirs, at: now) }
      case 21:
        let (stream, unparks) = (StreamID(UInt16(script.byte() % 6)), script.flag())
        let ask: (inout Association) -> Void = { if unparks { $0.unpark() } else { _ = $0.resetStreams([stream]) } }
        if side == .a { pair.a.with(ask) } else { pair.z.with(ask) }
      case 22 where script.byte() > 224:
        isEnding = true
        if side == .a { pair.a.with { $0.shutdown(at: now) } } else { pair.z.with { $0.shutdown(at: now) } }
      default:
        let isSuspended = script.flag()
        pair.a.with { if isSuspended { $0.suspendTimeouts() } else { $0.resumeTimeouts(at: now) } }
      }
      pair.settle()
    }
    if !pair.isForged { conclude(&pair, sent, isEnding: isEnding) }
  }

  /// The network heals: what was sent is there, or both ends know that it is not.
  private static func conclude(_ pair: inout Pair, _ sent: (a: [Message], z: [Message]), isEnding: Bool) {
    if !pair.isDatagram {
      let now = pair.now
      for number in 1...pair.lastCarrier {
        pair.a.with { $0.carrierWritable(CarrierID(number), true) }
        pair.z.with { $0.carrierWritable(CarrierID(number), true) }
      }
      pair.a.with { $0.resumeTimeouts(at: now) }
      if pair.a.association?.state != .cookieWait, pair.a.association?.state != .cookieEchoed {
        // As an owner does: carriers that nobody uses are closed, and make room for the next.
        for number in 1..<max(1, pair.lastCarrier) { pair.cut(CarrierID(number), atA: true, atZ: true) }
        let id = pair.dial()
        pair.a.with { $0.move(to: id, localAddress: Subject.theirs, peerAddress: Subject.ours, at: now) }
      }
    }
    pair.runQuietly(for: .seconds(900.0)) {
      ($0.a.isClosed && ($0.z.isClosed || $0.z.member == nil && $0.z.association == nil))
        || (!isEnding && $0.isQuiet)
    }
    let hasFailed = pair.a.failure != nil || pair.z.failure != nil
    compare(pair.z.delivered, sent.a, mayEndEarly: hasFailed, pair)
    compare(pair.a.delivered, sent.z, mayEndEarly: hasFailed, pair)
  }

  private static func compare(_ got: [(stream: UInt16, payload: ByteBuffer)], _ sent: [Message], mayEndEarly: Bool, _ pair: Pair) {
    for stream in 0..<UInt16(6) {
      let wanted = sent.filter { $0.stream == stream && !$0.isUnordered }
      let loose = sent.filter { $0.stream == stream && $0.isUnordered }
      var ordered: [ByteBuffer] = []
      var unordered: [ByteBuffer] = []
      for (_, payload) in got where true {
        if loose.contains(where: { $0.payload == payload }) { unordered.append(payload) }
        if wanted.contains(where: { $0.payload == payload }) { ordered.append(payload) }
      }
      demand(ordered == wanted.map(\.payload).filter { ordered.contains($0) }, "stream \(stream): not in order, or not once; \(pair)")
      demand(
        Set(unordered.map { $0.getInteger(at: $0.readerIndex, as: UInt32.self) }).count == unordered.count,
        "stream \(stream): twice; \(pair)")
      demand(
        mayEndEarly
          || wanted.allSatisfy { $0.isLimited || ordered.contains($0.payload) }
            && loose.allSatisfy { $0.isLimited || unordered.contains($0.payload) },
        "stream \(stream): messages are missing; \(pair)")
    }
    demand(got.count <= sent.count, "more came than was sent")
  }
}
