import ChunkStores
import Dedup
import DequeModule
import NIOCore
import Vocabulary

/// What a peer said on one flow cannot be.
package enum CodecViolation: Error, Sendable, Hashable, CustomStringConvertible {
  case decompression(DecompressionError)
  case chunks(ChunkViolation)
  /// A frame of the byte cache on a direction that does not use it.
  case notCached

  package var description: String {
    switch self {
    case .decompression(let error): "\(error)"
    case .chunks(let violation): "\(violation)"
    case .notCached: "a frame of the byte cache on a flow without one"
    }
  }
}

/// The codecs of one flow, both directions, on one event loop: octets of the application become coded frames, and those of the peer octets again.
///
/// It lives from OPEN until both directions have ended, all that came has been delivered, and all that was named has been found (`isDone`).
/// Sending: `send`, `flush`, then `nextFrame` until nil. Receiving: `receive`, then `nextDelivery` and `nextFrame` until nil; again when `onProgress` is called, and when octets have been passed on.
package final class FlowCodec {
  /// `outbound` is ours, `inbound` the peer's.
  package let outbound: DataCoding
  package private(set) var inbound: DataCoding
  package private(set) var statistics = FlowStatistics()
  /// Called on the loop when a chunk has come from a disk, or is known not to.
  package var onProgress: (() -> Void)?

  private let cache: ByteCache?
  private let effort: CompressionEffort
  private let loop: any EventLoop
  private var frames: Deque<CodedFrame> = []
  // Sending. Nil once this end has ended its direction.
  private var compressor: FlowEncoder?
  private var chunkEncoder: ChunkEncoder?
  /// As the effort knows it.
  private var holdsContext = false
  private var activity = FlowActivity()
  private var linkIsFull = false
  private var sentBeforeRest = 0
  // Receiving. Nil once all has come.
  private var decompressor: FlowDecoder?
  private var chunkDecoder: ChunkDecoder?
  private var deliveries: Deque<ByteBuffer> = []
  private var nextOrdinal: UInt32 = 0
  private var saidResolved: UInt32 = 0

  /// - Parameters:
  ///   - window: octets that may be under way behind chunks that are still looked for.
  ///   - cache: nil where either end has none.
  ///   - effort: of the loop.
  package init(
    outbound: DataCoding, inbound: DataCoding, cache: ByteCache?, window: Int, effort: CompressionEffort, loop: any EventLoop
  ) {
    self.effort = effort
    self.outbound = cache == nil ? min(outbound, .zstd) : outbound
    self.inbound = inbound
    self.cache = cache
    self.loop = loop
    compressor = FlowEncoder()
    decompressor = FlowDecoder()
    if let cache, self.outbound == .cached { chunkEncoder = ChunkEncoder(namer: cache.namer) }
    if let cache { chunkDecoder = ChunkDecoder(namer: cache.namer, maximumPending: window) }
  }

  deinit { if holdsContext { effort.contextsChange(by: -1) } }

  /// OPENED has told how the acceptor's DATA is coded.
  package func answered(_ coding: DataCoding) { inbound = coding }
}

// MARK: Ask it

extension FlowCodec {
  package func nextFrame() -> CodedFrame? { frames.popFirst() }
  /// Octets that wait for the end of their chunk.
  package var heldOctets: Int { chunkEncoder?.heldOctets ?? 0 }
  /// Octets that are kept because they have gone as names only.
  package var pinnedOctets: Int { chunkEncoder?.pinnedOctets ?? 0 }
  /// Octets have come that are not delivered yet.
  package var hasUndelivered: Bool { !deliveries.isEmpty || (chunkDecoder?.undeliveredOctets ?? 0) > 0 }
  /// More than keystrokes went out a moment ago, so that more will follow.
  package func isBulk(at now: Instant, within span: TimeSpan) -> Bool { activity.isBulk(at: now, within: span) }
}

// MARK: Sending

extension FlowCodec {
  /// - Parameters:
  ///   - plain: at most `limit` octets of the application.
  ///   - cut: the longest frame, in octets before compression.
  ///   - mayName: false while too much is pinned: all goes out in full.
  ///   - linkIsFull: octets wait for the tunnel, so that what is made smaller now is sooner there.
  ///   - couldSend: since the last octets nothing but the application kept the flow from sending: if it was quiet, it had nothing more to say.
  package func send(
    _ plain: ByteBuffer, cut: Int, mayName: Bool = true, linkIsFull: Bool = false, couldSend: Bool = false, at now: Instant
  ) {
    self.linkIsFull = linkIsFull
    statistics.plainSent += plain.readableBytes
    let wasQuiet = couldSend && activity.isQuiet(at: now, for: FlowCodec.quiet)
    activity.note(plain.readableBytes, at: now)
    guard chunkEncoder != nil, let cache else { return put(plain, cut) }
    chunkEncoder?.allowsReferences = mayName
    if wasQuiet { pause() }
    chunkEncoder?.append(
      plain, isShared: { cache.isShared($0) },
      learned: { cache.learned($0, $1) })
    takePieces(cut)
  }

  /// What is held goes out in full.
  package func flush(cut: Int) {
    guard heldOctets > 0, let cache else { return }
    chunkEncoder?.flush(isShared: { cache.store.isShared($0, with: cache.peer) })
    takePieces(cut)
  }

  /// To be called every few seconds. A flow that has said nothing since the last time has said a whole: its open chunk, up to 32 KiB at either end, is learned and needs no memory any more.
  package func rest(cut: Int) {
    defer { sentBeforeRest = statistics.plainSent }
    guard statistics.plainSent == sentBeforeRest, chunkEncoder != nil else { return }
    pause()
    takePieces(cut)
  }

  private func pause() {
    guard let cache else { return }
    chunkEncoder?.pause(
      isShared: { cache.isShared($0) }, learned: { cache.learned($0, $1) })
  }

  /// No more is sent: what is held goes out. What was named stays pinned until the peer has found it.
  package func endSending(cut: Int) {
    if let cache {
      chunkEncoder?.end(
        isShared: { cache.isShared($0) }, learned: { cache.learned($0, $1) })
      takePieces(cut)
    }
    stopSending()
  }

  private func stopSending() {
    compressor = nil
    countContext()
    if pinnedOctets == 0 { chunkEncoder = nil }
  }

  /// This end or the peer has given the flow up: nothing of it is kept.
  package func abandon() {
    chunkEncoder = nil
    stopSending()
    stopReceiving()
    deliveries.removeAll()
    frames.removeAll()
    onProgress = nil
  }

  private func takePieces(_ cut: Int) {
    var references: [ChunkReference] = []
    while let piece = chunkEncoder?.nextPiece() {
      if case .reference(let reference) = piece {
        statistics.referencedSent += reference.octets
        references.append(reference)
        if references.count == CodedFrame.referencesAtOnce { putReferences(&references) }
        continue
      }
      putReferences(&references)
      switch piece {
      case .lane(let lane): frames.append(.lane(lane))
      case .plain(let bytes): put(bytes, cut)
      case .reference: break
      }
    }
    putReferences(&references)
  }

  private func putReferences(_ references: inout [ChunkReference]) {
    guard !references.isEmpty else { return }
    statistics.wireSent += references.count * CodedFrame.referenceOctets
    // What one turn names goes out together.
    if case .reference(let before)? = frames.last, before.count + references.count <= CodedFrame.referencesAtOnce {
      frames[frames.count - 1] = .reference(before + references)
    } else {
      frames.append(.reference(references))
    }
    references.removeAll(keepingCapacity: true)
  }

  private func put(_ plain: ByteBuffer, _ cut: Int) {
    var rest = plain
    while let part = rest.readSlice(length: min(cut, rest.readableBytes)), part.readableBytes > 0 {
      guard outbound != .plain, let encoded = compress(part) else {
        statistics.wireSent += part.readableBytes
        frames.append(.literal(part))
        continue
      }
      switch encoded {
      case .literal(let bytes):
        statistics.wireSent += bytes.readableBytes
        frames.append(.literal(bytes))
      case .compressed(let bytes):
        statistics.wireSent += bytes.readableBytes
        frames.append(.data(bytes))
      }
    }
  }

  private func compress(_ part: ByteBuffer) -> FlowEncoder.Encoded? {
    guard holdsContext || effort.hasContext else { return .literal(part) }
    let start = FlowCodec.now()
    let encoded = compressor?.encode(part, reserving: FlowCodec.headerRoom, level: effort.level)
    countContext()
    if case .compressed? = encoded {
      let end = FlowCodec.now()
      effort.note(end - start, linkIsFull: linkIsFull, at: end)
    }
    return encoded
  }

  /// Tells the loop's effort whether this flow has a context.
  private func countContext() {
    let holds = compressor?.holdsContext ?? false
    guard holds != holdsContext else { return }
    holdsContext = holds
    effort.contextsChange(by: holds ? 1 : -1)
  }

  private static func now() -> Instant { Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)) }

  /// For a flow that has been idle for long: frees what it keeps only to be better prepared (a zstd context is 0.5 MB at each end).
  package func shrink() {
    if let end = compressor?.rest(reserving: FlowCodec.headerRoom) {
      statistics.wireSent += end.readableBytes
      frames.append(.data(end))
      countContext()
    }
    chunkEncoder?.trim()
    chunkDecoder?.trim()
  }

  /// What a flow said before it was silent for so long is a whole: longer than the pauses of one who sends what it has, shorter than the round trips on which an answer waits for the next question.
  private static let quiet = TimeSpan.milliseconds(Int64(20))
  /// Octets that are free in front of what has been compressed, for the header of whoever carries it.
  package static let headerRoom = 8
}

// MARK: Receiving

extension FlowCodec {
  /// - Parameter limit: what one DATA may stand for, in octets.
  package func receive(_ frame: CodedFrame, atMost limit: Int) throws(CodecViolation) {
    switch frame {
    case .data(let payload):
      statistics.wireReceived += payload.readableBytes
      guard inbound != .plain else { return try take(payload.withoutSpare()) }
      let plain: ByteBuffer
      do throws(DecompressionError) {
        plain = try decompressor?.decode(payload, atMost: limit) ?? ByteBuffer()
      } catch {
        throw .decompression(error)
      }
      try take(plain)
    case .literal(let payload):
      statistics.wireReceived += payload.readableBytes
      try take(payload.withoutSpare())
    case .lane(let lane):
      guard inbound == .cached, let cache else { throw .notCached }
      do throws(ChunkViolation) {
        try chunkDecoder?.lane(lane, learned: { cache.store.put($0, $1, sharedWith: cache.peer) })
      } catch {
        throw .chunks(error)
      }
    case .reference(let references): try look(for: references)
    case .chunk(let ordinal, let bytes): try came(ordinal, bytes)
    case .missing(let ordinals): try resend(ordinals)
    case .resolved(let count):
      do throws(ChunkViolation) { try chunkEncoder?.resolved(upTo: count) } catch { throw .chunks(error) }
      if compressor == nil, pinnedOctets == 0 { chunkEncoder = nil }
    }
  }

  /// Octets for the application, in order. `ahead`: so many octets of chunks may be got from the store beyond what the application has taken; names alone cost nothing.
  package func nextDelivery(ahead: Int) throws(CodecViolation) -> ByteBuffer? {
    if let plain = deliveries.popFirst() { return plain }
    guard let cache else { return nil }
    while let decoded = chunkDecoder?.next(ahead: ahead) {
      switch decoded {
      case .bytes(let bytes): return bytes
      case .want(let ordinal, let reference):
        if let bytes = cache.store.take(reference.name), bytes.readableBytes == reference.octets {
          do throws(ChunkViolation) { try chunkDecoder?.supply(ordinal, bytes, verify: false) } catch { throw .chunks(error) }
        } else {
          fetch(ordinal, reference, cache)
        }
      }
    }
    sayResolved()
    return nil
  }

  /// The peer sends no more. What has come is still delivered.
  package func endReceiving() throws(CodecViolation) {
    decompressor = nil
    guard inbound == .cached, let cache else { return }
    do throws(ChunkViolation) {
      try chunkDecoder?.end(learned: { cache.learned($0, $1) })
    } catch {
      throw .chunks(error)
    }
  }

  /// All that has come is delivered.
  package func stopReceiving() {
    decompressor = nil
    chunkDecoder = nil
  }

  private func take(_ plain: ByteBuffer) throws(CodecViolation) {
    statistics.plainReceived += plain.readableBytes
    guard inbound == .cached, let cache else {
      deliveries.append(plain)
      return
    }
    do throws(ChunkViolation) {
      try chunkDecoder?.plain(plain, learned: { cache.learned($0, $1) })
    } catch {
      throw .chunks(error)
    }
  }

  private func look(for references: [ChunkReference]) throws(CodecViolation) {
    guard inbound == .cached, let cache else { throw .notCached }
    statistics.wireReceived += references.count * CodedFrame.referenceOctets
    var missing: [UInt32] = []
    for reference in references {
      do throws(ChunkViolation) { try chunkDecoder?.reference(reference) } catch { throw .chunks(error) }
      statistics.plainReceived += reference.octets
      statistics.referencedReceived += reference.octets
      cache.named(reference.name)
      // Said at once, however far off its turn: the answer is under way while what comes before is delivered.
      if !cache.store.contains(reference.name) {
        missing.append(nextOrdinal)
        chunkDecoder?.ask(nextOrdinal)
      }
      nextOrdinal &+= 1
    }
    ask(missing)
  }

  private func ask(_ missing: [UInt32]) {
    guard !missing.isEmpty else { return }
    statistics.missingReceived += missing.count
    frames.append(.missing(missing))
  }

  private func came(_ ordinal: UInt32, _ bytes: ByteBuffer) throws(CodecViolation) {
    guard inbound == .cached, let cache else { throw .notCached }
    statistics.wireReceived += bytes.readableBytes
    let bytes = bytes.withoutSpare()
    do throws(ChunkViolation) { try chunkDecoder?.supply(ordinal, bytes, verify: true) } catch { throw .chunks(error) }
    bytes.withUnsafeReadableBytes { cache.store.put(cache.namer($0), bytes, sharedWith: cache.peer) }
  }

  private func resend(_ ordinals: [UInt32]) throws(CodecViolation) {
    for ordinal in ordinals {
      guard let cache, chunkEncoder != nil else { throw .notCached }
      do throws(ChunkViolation) {
        guard let (name, bytes) = try chunkEncoder?.missing(ordinal) else { return }
        // Forgotten first: where our store does not take it again, the next flow sends it in full.
        cache.store.forget(name, of: cache.peer)
        cache.store.put(name, bytes, sharedWith: cache.peer)
        statistics.missingSent += 1
        statistics.wireSent += bytes.readableBytes
        frames.append(.chunk(ordinal, bytes))
      } catch {
        throw .chunks(error)
      }
    }
  }

  private func fetch(_ ordinal: UInt32, _ reference: ChunkReference, _ cache: ByteCache) {
    let bound = NIOLoopBound(self, eventLoop: loop)
    cache.store.fetch(reference.name, on: loop) { bytes in bound.value.fetched(ordinal, reference, bytes) }
  }

  private func fetched(_ ordinal: UInt32, _ reference: ChunkReference, _ bytes: ByteBuffer?) {
    guard chunkDecoder != nil else { return }  // given up meanwhile
    if let bytes, bytes.readableBytes == reference.octets {
      // Only our own store can be wrong here, and its octets are verified.
      do throws(ChunkViolation) { try chunkDecoder?.supply(ordinal, bytes, verify: false) } catch { preconditionFailure("\(error)") }
    } else {
      ask([ordinal])
    }
    onProgress?()
  }

  private func sayResolved() {
    guard let count = chunkDecoder?.resolvedCount, count != saidResolved else { return }
    saidResolved = count
    frames.append(.resolved(count))
  }
}
