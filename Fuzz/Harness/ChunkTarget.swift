import Dedup
import NIOCore
import Vocabulary

/// The byte cache of one direction of one flow: two honest ends, whose output must be the input whatever is believed, lost or cut; or a receiver whose peer says anything.
package enum ChunkTarget {
  package static func run(_ bytes: [UInt8]) {
    var script = Script(bytes)
    if script.flag() { pair(&script) } else { receiver(&script) }
  }

  /// Quick, and without collisions among what a run can make.
  private static let namer = ChunkNamer { octets in
    var (a, b) = (UInt64(octets.count), UInt64(0x1234_5678))
    for octet in octets {
      a = (a ^ UInt64(octet)) &* 0x100_0000_01b3
      b = (b &+ UInt64(octet)) &* 0x9e37_79b9_7f4a_7c15 ^ a >> 29
    }
    return ChunkName(high: a, middle: b, low: UInt32(truncatingIfNeeded: a ^ b >> 32))
  }

  // MARK: Two honest ends

  private struct Ends {
    var encoder = ChunkEncoder(namer: namer)
    var decoder = ChunkDecoder(namer: namer, maximumPending: 16 << 20)
    var input = ByteBuffer()
    var output = ByteBuffer()
    var believed: [ChunkName: ByteBuffer] = [:]
    var believesAll = false
    var hasStore = true
    var resolved: UInt32 = 0
    var waiting: [(UInt32, ChunkReference)] = []
    var learned: (a: Int, z: Int) = (0, 0)
    var isTrimmed = false

    mutating func append(_ octets: ByteBuffer) {
      input.writeImmutableBuffer(octets)
      let (believed, all) = (believed, believesAll)
      var new: [(ChunkName, ByteBuffer)] = []
      encoder.append(octets, isShared: { all || believed[$0] != nil }, learned: { new.append(($0, $1)) })
      remember(new)
      demand(encoder.heldOctets <= ChunkEncoder.heldLimit, "too much is held")
    }

    mutating func flush() {
      let (believed, all) = (believed, believesAll)
      encoder.flush { all || believed[$0] != nil }
    }

    mutating func pause() {
      let (believed, all) = (believed, believesAll)
      var new: [(ChunkName, ByteBuffer)] = []
      encoder.pause(isShared: { all || believed[$0] != nil }, learned: { new.append(($0, $1)) })
      remember(new)
    }

    mutating func end() {
      let (believed, all) = (believed, believesAll)
      var new: [(ChunkName, ByteBuffer)] = []
      encoder.end(isShared: { all || believed[$0] != nil }, learned: { new.append(($0, $1)) })
      remember(new)
    }

    mutating func remember(_ new: [(ChunkName, ByteBuffer)]) {
      learned.a += new.count
      for (name, octets) in new { believed[name] = octets }
    }

    mutating func carry(ahead: Int) throws(ChunkViolation) {
      var count = 0
      while let piece = encoder.nextPiece() {
        switch piece {
        case .lane(let lane): try decoder.lane(lane) { _, _ in count += 1 }
        case .plain(let octets): try decoder.plain(octets) { _, _ in count += 1 }
        case .reference(let reference): try decoder.reference(reference)
        }
      }
      learned.z += count
      try take(ahead: ahead)
    }

    mutating func take(ahead: Int) throws(ChunkViolation) {
      while let decoded = decoder.next(ahead: ahead) {
        switch decoded {
        case .bytes(var octets): output.writeBuffer(&octets)
        case .want(let ordinal, let reference):
          if hasStore, let octets = believed[reference.name] {
            try decoder.supply(ordinal, octets, verify: false)
          } else {
            waiting.append((ordinal, reference))
          }
        }
      }
      if resolved != decoder.resolvedCount {
        resolved = decoder.resolvedCount
        try encoder.resolved(upTo: resolved)
      }
    }

    mutating func answer(_ index: Int, ahead: Int) throws(ChunkViolation) {
      guard !waiting.isEmpty else { return }
      let (ordinal, reference) = waiting.remove(at: index % waiting.count)
      let (name, octets) = try encoder.missing(ordinal)
      demand(name == reference.name, "another chunk was pinned")
      try decoder.supply(ordinal, octets, verify: true)
      try take(ahead: ahead)
    }
  }

  private static func pair(_ script: inout Script) {
    var ends = Ends()
    var steps = 0
    do throws(ChunkViolation) {
      while !script.isOver, steps < 120, ends.input.writerIndex < 2 << 20 {
        steps += 1
        let ahead = script.below(4) == 0 ? 1 : 1 << 20
        switch script.below(16) {
        case 0...7: ends.append(octets(&script))
        case 9:
          if script.flag() { ends.pause() }
          ends.flush()
          demand(ends.encoder.heldOctets == 0, "something is held behind a flush")
          try ends.carry(ahead: 1 << 20)
          if ends.waiting.isEmpty, ends.decoder.next(ahead: 0) == nil {
            demand(ends.output.readableBytes == ends.input.readableBytes, "a flush leaves octets behind")
          }
        case 10: ends.encoder.allowsReferences = script.flag()
        case 11: ends.believesAll = script.flag()
        case 12: ends.hasStore = script.flag()
        case 8 where script.byte() < 40:
          ends.isTrimmed = true
          if script.flag() { ends.encoder.trim() } else { ends.decoder.trim() }
        case 13: try ends.answer(Int(script.byte()), ahead: ahead)
        default: try ends.carry(ahead: ahead)
        }
      }
      ends.end()
      try ends.carry(ahead: 1 << 20)
      var count = 0
      try ends.decoder.end { _, _ in count += 1 }
      ends.learned.z += count
      while !ends.waiting.isEmpty { try ends.answer(0, ahead: 1 << 20) }
    } catch {
      demand(false, "an honest end broke the protocol: \(error)")
    }
    demand(ends.output == ends.input, "what came out is not what went in")
    demand(ends.isTrimmed || ends.learned.a == ends.learned.z, "\(ends.learned.a) chunks learned here, \(ends.learned.z) there")
    demand(ends.encoder.pinnedOctets == 0 && ends.decoder.pendingOctets == 0 && ends.decoder.undeliveredOctets == 0, "something is left")
  }

  // MARK: A receiver

  private static func receiver(_ script: inout Script) {
    let limit = 200_000
    var decoder = ChunkDecoder(namer: namer, maximumPending: limit)
    var wanted: [(UInt32, ChunkReference)] = []
    var steps = 0
    while !script.isOver, steps < 300 {
      steps += 1
      switch script.below(12) {
      case 0...3: try? decoder.plain(octets(&script)) { _, _ in }
      case 4, 5:
        let name = ChunkName(high: 1, middle: 2, low: UInt32(script.byte() % 4))
        try? decoder.reference(ChunkReference(name: name, octets: 400 + script.size()))
      case 6: try? decoder.lane(UInt16(script.byte() % 70) | (script.flag() ? EncodedPiece.cut : 0)) { _, _ in }
      case 7: try? decoder.supply(UInt32(script.byte() % 8), ByteBuffer(repeating: 1, count: script.size()), verify: true)
      case 8, 9:
        guard !wanted.isEmpty else { break }
        let (ordinal, reference) = wanted.remove(at: script.below(wanted.count))
        try? decoder.supply(ordinal, ByteBuffer(repeating: 2, count: reference.octets), verify: false)
      case 10 where script.byte() < 30: try? decoder.end { _, _ in }
      case 10: decoder.trim()
      default:
        var turns = 0
        let ahead = script.size()
        while let decoded = decoder.next(ahead: ahead) {
          turns += 1
          demand(turns < 100_000, "the receiver never stops")
          if case .want(let ordinal, let reference) = decoded { wanted.append((ordinal, reference)) }
        }
      }
      demand(decoder.pendingOctets <= limit && decoder.pendingOctets >= 0, "\(decoder.pendingOctets) octets pending")
    }
  }

  // MARK: What flows are made of

  /// Octets that come again and again, and parts of carriers.
  private static func octets(_ script: inout Script) -> ByteBuffer {
    var buffer = ByteBuffer()
    switch script.below(8) {
    case 0: buffer.writeBytes(script.octets(atMost: 60))
    case 1: buffer.writeRepeatingByte(script.byte(), count: script.size())
    case 2, 3: block(&script, into: &buffer)
    case 4: packet(tag: 0, into: &buffer) { chunk(1, 0, ByteBuffer(repeating: 5, count: 16 + script.below(40)), into: &$0) }
    case 5: buffer.writeBytes([0x16, 3].prefix(script.below(3)))
    default:
      packet(tag: 7, into: &buffer) { frame in
        for _ in 0...script.below(3) {
          let flags = script.byte()
          var value = ByteBuffer()
          if flags & 0x80 == 0 {
            value.writeInteger(UInt32(flags))
            value.writeInteger(UInt16(script.byte() % 70))
            value.writeRepeatingByte(0, count: flags & 0x40 == 0 ? 2 : 6)
            value.writeInteger(0x4c48_0000 | UInt32(flags & 8 == 0 ? 4 : script.byte() % 9))
            block(&script, into: &value)
            if value.readableBytes > 30_000 { value.moveWriterIndex(to: 30_000) }
            chunk(flags & 0x40 == 0 ? 0 : 0x40, flags & 3, value, into: &frame)
          } else {
            value.writeBytes(script.octets(atMost: 20))
            chunk(flags & 0x1f, 0, value, into: &frame)
          }
        }
      }
    }
    return buffer
  }

  /// Some of a few long bodies.
  private static func block(_ script: inout Script, into buffer: inout ByteBuffer) {
    var random = SeededGenerator(seed: UInt64(script.byte() % 4))
    let (skipped, count) = (script.below(4) * 700, script.size())
    for index in 0..<(skipped + count) / 8 + 1 {
      let next = random.next()
      if index * 8 >= skipped { buffer.writeInteger(next) }
    }
  }

  private static func packet(tag: UInt32, into buffer: inout ByteBuffer, _ body: (inout ByteBuffer) -> Void) {
    var frame = ByteBuffer()
    frame.writeInteger(UInt32(0x1db0_1db0))
    frame.writeInteger(tag)
    frame.writeInteger(UInt32(0x0102_0304))
    body(&frame)
    let octets = min(frame.readableBytes, 65_535)
    buffer.writeInteger(UInt16(octets))
    buffer.writeBuffer(&frame)
  }

  private static func chunk(_ type: UInt8, _ flags: UInt8, _ value: ByteBuffer, into frame: inout ByteBuffer) {
    frame.writeInteger(type)
    frame.writeInteger(flags)
    frame.writeInteger(UInt16(value.readableBytes + 4))
    frame.writeImmutableBuffer(value)
    frame.writeRepeatingByte(0, count: -value.readableBytes & 3)
  }
}
