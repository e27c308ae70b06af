import NIOCore
import SCTP
import Vocabulary

/// One association, a listener, or a datagram endpoint against a peer who says whatever the octets want.
package enum AssociationTarget {
  private struct Start: Sendable {
    var subject: Subject
    var peer: Peer
    var isDatagram: Bool
  }

  private static let began = Instant(nanoseconds: 1_000_000_000)

  /// Subjects before their handshake and after it; a script begins with a copy of one.
  private static let starts: [Start] = {
    var starts: [Start] = []
    for kind in 0..<4 {
      let isDatagram = kind & 1 == 1
      var pair = Pair(isDatagram: isDatagram, isInterleaved: kind & 2 == 2, seed: 5)
      starts.append(Start(subject: pair.z, peer: Peer(), isDatagram: isDatagram))
      var dialling = pair.a
      dialling.settle(at: began)
      var peer = Peer()
      for (packet, _, _) in dialling.outbox { peer.learn(packet) }
      dialling.outbox = []
      starts.append(Start(subject: dialling, peer: peer, isDatagram: isDatagram))
      var (ofA, ofZ) = (Peer(), Peer())
      pair.isTraced = true
      pair.runQuietly(for: .seconds(1.0))
      for (side, packet) in pair.trace { if side == .a { ofA.learn(packet) } else { ofZ.learn(packet) } }
      (ofA.cumulative, ofZ.cumulative) = (ofZ.nextTSN &- 1, ofA.nextTSN &- 1)
      (ofA.ownSerial, ofZ.ownSerial) = (ofZ.nextTSN, ofA.nextTSN)
      starts.append(Start(subject: pair.a, peer: ofA, isDatagram: isDatagram))
      starts.append(Start(subject: pair.z, peer: ofZ, isDatagram: isDatagram))
    }
    return starts
  }()

  package static func run(_ bytes: [UInt8]) {
    var script = Script(bytes)
    let start = starts[script.below(starts.count)]
    var (subject, peer, now) = (start.subject, start.peer, began + .seconds(1.0))
    var lastCarrier: UInt64 = 1
    var steps = 0
    while !script.isOver, steps < 400 {
      steps += 1
      switch script.below(32) {
      case 0..<17:
        let packet = peer.packet(&script)
        if start.isDatagram {
          subject.receive(packet, on: route(&script), at: now)
        } else {
          subject.receive(packet, on: carrier(&script, lastCarrier), at: now)
        }
      case 17, 18: now = now + .milliseconds(Int64(script.byte()) * Int64(script.byte()))
      case 19: now = subject.deadline.map { max(now, $0) } ?? now
      case 20, 21:
        let (payload, stream, flags) = (ByteBuffer(repeating: 1, count: script.size()), UInt16(script.byte() % 8), script.byte())
        subject.with {
          _ = $0.send(
            payload, stream: StreamID(stream), protocolIdentifier: 3, isUnordered: flags & 1 == 1, endOfWrite: flags & 2 == 2,
            reliability: flags & 12 == 4 ? .retransmissions(1) : flags & 12 == 8 ? .until(now + .milliseconds(200 as Int64)) : .full)
        }
      case 22:
        lastCarrier += 1
        let (id, remote) = (CarrierID(lastCarrier), address(&script))
        if !start.isDatagram { subject.with { $0.carrierOpened(id, local: Subject.ours, remote: remote, at: now) } }
      case 23:
        let id = carrier(&script, lastCarrier)
        if !start.isDatagram { subject.with { $0.carrierClosed(id, at: now) } }
      case 24:
        let (id, isWritable) = (carrier(&script, lastCarrier), script.flag())
        if start.isDatagram { subject.endpoint?.writable(isWritable) } else { subject.with { $0.carrierWritable(id, isWritable) } }
      case 25:
        let (id, local, remote) = (carrier(&script, lastCarrier), address(&script), address(&script))
        if start.isDatagram {
          if let member = subject.member { subject.endpoint?.move(member, to: Subject.route(from: local, to: remote), at: now) }
        } else {
          subject.with { $0.move(to: id, localAddress: local, peerAddress: remote, at: now) }
        }
      case 26:
        let address = address(&script)
        subject.with { $0.announce(address, at: now) }
      case 27:
        let address = address(&script)
        subject.with { $0.withdraw(address, at: now) }
      case 28:
        let (id, local) = (carrier(&script, lastCarrier), address(&script))
        if !start.isDatagram { subject.with { _ = $0.park(on: id, localAddress: local, at: now) } }
      case 29:
        let (choice, streams) = (script.below(5), (0..<script.below(4)).map { _ in StreamID(UInt16(script.byte() % 10)) })
        subject.with {
          switch choice {
          case 0, 1: _ = $0.resetStreams(streams)
          case 2: _ = $0.askToReset(streams)
          case 3: _ = $0.addStreams(UInt16(streams.count), streams.count % 2 == 0 ? .outgoing : .incoming)
          default: $0.unpark()
          }
        }
      case 30:
        let isSuspended = script.flag()
        subject.with { if isSuspended { $0.suspendTimeouts() } else { $0.resumeTimeouts(at: now) } }
      default:
        switch script.byte() {
        case 0..<64: subject.with { $0.shutdown(at: now) }
        case 64..<72: subject.with { $0.abort(reason: "the script says so", at: now) }
        default: if let member = subject.member { subject.endpoint?.addPath(route(&script), to: member, at: now) }
        }
      }
      subject.settle(at: now)
      for (packet, _, _) in subject.outbox { peer.learn(packet) }
      subject.outbox.removeAll(keepingCapacity: true)
      for id in subject.closing where !start.isDatagram { subject.with { $0.carrierClosed(id, at: now) } }
      subject.closing.removeAll()
      subject.delivered.removeAll(keepingCapacity: true)
    }
  }

  private static func carrier(_ script: inout Script, _ last: UInt64) -> CarrierID {
    let choice = UInt64(script.byte())
    return CarrierID(choice < 128 ? last : 1 + choice % max(1, last))
  }

  private static func address(_ script: inout Script) -> IPAddress { .v4(0x0a01_0000 | UInt32(script.byte() % 24)) }

  private static func route(_ script: inout Script) -> DatagramRoute {
    let choice = script.byte()
    if choice < 160 { return Subject.route() }
    return Subject.route(to: .v4(0x0a01_0000 | UInt32(choice % 24)), port: choice < 220 ? 9_899 : 1_000 + UInt16(choice))
  }
}
