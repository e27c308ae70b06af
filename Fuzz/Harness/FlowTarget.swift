import Flows
import NIOCore

/// Two flow tables with frames between them, in order as a stream gives them, and now and then a frame that neither has sent.
package enum FlowTarget {
  private struct End {
    var table: FlowTable
    var incoming: [FlowID] = []
    var unconsumed: [FlowID: Int] = [:]
    var open: [FlowID] = []
    var toPeer: [(FlowID, FlowFrame)] = []
    var hasFailed = false

    mutating func settle() {
      while let event = table.nextEvent() {
        switch event {
        case .incoming(let id, _): incoming.append(id)
        case .data(let id, let bytes): unconsumed[id, default: 0] += bytes.readableBytes
        case .closed(let id), .refused(let id, _): forget(id)
        case .opened, .writable, .ended, .reset: break
        }
      }
      while let (id, frame) = table.nextFrame() { toPeer.append((id, frame)) }
    }

    mutating func forget(_ id: FlowID) {
      incoming.removeAll { $0 == id }
      open.removeAll { $0 == id }
      unconsumed[id] = nil
    }
  }

  package static func run(_ bytes: [UInt8]) {
    var script = Script(bytes)
    let limits = FlowLimits(window: 4_096, earlyData: 512, maximumFlows: 6)
    var ends = [FlowTable.Role.opener, .acceptor].map { End(table: FlowTable(role: $0, limits: limits, identifiers: 0...9)) }
    var isForged = false
    var steps = 0
    while !script.isOver, steps < 500 {
      steps += 1
      let side = script.below(2)
      let known = ends[side].open
      let id = known.isEmpty ? FlowID(UInt32(script.below(12))) : known[script.below(known.count)]
      switch script.below(16) {
      case 0, 1:
        if let id = try? ends[0].table.open(FlowTarget.target) { ends[0].open.append(id) }
      case 2, 3:
        guard let id = ends[1].incoming.first else { break }
        ends[1].incoming.removeFirst()
        if script.byte() < 200 {
          ends[1].table.accept(id)
          ends[1].open.append(id)
        } else {
          ends[1].table.refuse(id, .notAllowed)
          ends[1].forget(id)
        }
      case 4, 5:
        let count = min(script.size(), ends[side].table.sendable(id))
        ends[side].table.send(ByteBuffer(repeating: 1, count: count), on: id)
      case 6: if known.contains(id) { ends[side].table.end(id) }
      case 7: if known.contains(id) { ends[side].table.reset(id) }
      case 8, 9:
        let count = min(script.size(), ends[side].unconsumed[id] ?? 0)
        ends[side].unconsumed[id, default: 0] -= count
        ends[side].table.consumed(count, on: id)
      case 15 where script.byte() < 40:
        isForged = true
        let body = ByteBuffer(bytes: script.octets(atMost: 24))
        guard let kind = FlowFrame.Kind(rawValue: script.byte() % 9), let frame = try? FlowFrame(kind: kind, body: body) else { break }
        ends[1 - side].toPeer.insert((FlowID(UInt32(script.byte() % 12)), frame), at: 0)
      default: for _ in 0...script.below(6) { deliver(from: 1 - side, &ends, isForged) }
      }
      for index in 0...1 { ends[index].settle() }
    }
    if !isForged { conclude(&ends) }
  }

  private static let target = Flows.FlowTarget(host: "vm", port: 80)

  private static func deliver(from side: Int, _ ends: inout [End], _ isForged: Bool) {
    guard !ends[side].toPeer.isEmpty, !ends[1 - side].hasFailed else { return }
    let (id, frame) = ends[side].toPeer.removeFirst()
    do {
      try ends[1 - side].table.receive(frame, on: id)
    } catch {
      demand(isForged, "an honest end broke the protocol: \(error)")
      ends[1 - side].hasFailed = true
      ends[1 - side].table.closeAll(.lost)
    }
    ends[1 - side].settle()
  }

  /// Everybody gives up: nothing is left at either end.
  private static func conclude(_ ends: inout [End]) {
    for _ in 0..<4 {
      for side in 0...1 {
        for id in (0...9).map({ FlowID($0) }) where ends[side].table.contains(id) { ends[side].table.reset(id) }
        ends[side].settle()
      }
      for side in 0...1 { while !ends[side].toPeer.isEmpty { deliver(from: side, &ends, false) } }
    }
    demand(ends[0].table.count == 0 && ends[1].table.count == 0, "flows are left")
  }
}
