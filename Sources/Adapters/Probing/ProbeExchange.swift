import NIOCore
import Paths
import Vocabulary

/// What a prober says and hears on one connection, without the connection: octets and time go in, octets and findings come out.
package struct ProbeExchange {
  package enum Effect: Hashable {
    case send(ByteBuffer)
    case found(roundTrip: TimeSpan, rate: BitRate?)
    /// The connection is of no use any more; nothing follows.
    case failed(String)
  }

  private struct Train {
    var nonce: UInt32
    var asked: Instant
    /// When the last octet of it came.
    var heard: Instant
    /// Octets that are still to come; nil until the answer's head is there.
    var left: Int?
    var dispersion = TrainDispersion()
  }

  private let limits: ProbeLimits
  package var interval: TimeSpan
  private var effects: [Effect] = []
  private var buffer = ByteBuffer()
  private var lastNonce: UInt32
  private var echoes: [(nonce: UInt32, sent: Instant)] = []
  private var nextEcho: Instant
  private var train: Train?
  private var nextTrain: Instant
  private var lastRate: BitRate?
  /// A train's rate goes out with the next round trip.
  private var freshRate: BitRate?
  /// RFC 6298 section 2, alpha 1/8.
  private var smoothed: TimeSpan?
  private var lastRoundTrip: TimeSpan?
  private var hasFailed = false
  /// The handshake's round trip waits for the first answer: until then anything may be listening there.
  private var handshake: TimeSpan?
  package private(set) var hasAnswered = false

  /// The connection has just been made; `handshake` is how long SYN and SYN-ACK took.
  package init(interval: TimeSpan, handshake: TimeSpan, firstNonce: UInt32, limits: ProbeLimits, at now: Instant) {
    self.limits = limits
    self.interval = interval
    lastNonce = firstNonce
    nextEcho = now
    nextTrain = now
    if handshake < limits.longestHandshake {
      self.handshake = handshake
      smoothed = handshake
    }
  }

  package mutating func nextEffect() -> Effect? { effects.isEmpty ? nil : effects.removeFirst() }

  /// How long the connection may be silent when something has been asked.
  package var patience: TimeSpan { max(limits.shortestLoss, (smoothed ?? .zero) * limits.lossFactor) }

  package var deadline: Instant? {
    guard !hasFailed else { return nil }
    var deadline: Instant
    // An echo behind a train would measure the train: it waits until the train is in.
    if let train { deadline = min(train.heard + patience, train.asked + limits.trainLimit) } else { deadline = nextEcho }
    if let oldest = echoes.first { deadline = min(deadline, oldest.sent + patience) }
    return deadline
  }

  package mutating func handleDeadline(at now: Instant) {
    guard !hasFailed else { return }
    if let oldest = echoes.first, now - oldest.sent >= patience {
      return fail("no answer to a probe within \(figure(patience.milliseconds)) ms")
    }
    if let train {
      if now - train.heard >= patience { return fail("a train of probes stopped for \(figure(patience.milliseconds)) ms") }
      if now - train.asked >= limits.trainLimit { return fail("a train of probes took longer than \(figure(limits.trainLimit.seconds)) s") }
    } else if now >= nextEcho {
      // A train that is due waits for the echoes under way; with more of them it would wait for ever where a round trip is longer than the interval.
      if now >= nextTrain, !echoes.isEmpty { nextEcho = now + interval } else { echo(at: now) }
    }
  }

  package mutating func receive(_ bytes: ByteBuffer, at now: Instant) {
    guard !hasFailed else { return }
    buffer.discardReadBytes()
    buffer.writeImmutableBuffer(bytes)
    do throws(ProbeViolation) {
      while !hasFailed, try step(at: now) {}
    } catch {
      fail("\(error)")
    }
  }
}

// MARK: Steps

extension ProbeExchange {
  /// False when more octets are needed.
  private mutating func step(at now: Instant) throws(ProbeViolation) -> Bool {
    if let left = train?.left {
      let here = min(left, buffer.readableBytes)
      guard here > 0 else { return false }
      buffer.moveReaderIndex(forwardBy: here)
      train?.dispersion.add(octets: here, at: now)
      train?.heard = now
      train?.left = left - here
      if left == here { endTrain(at: now) }
      return true
    }
    guard let message = try ProbeMessage.read(from: &buffer) else { return false }
    switch message.kind {
    case .echoAnswer:
      guard let asked = echoes.first, asked.nonce == message.nonce else { throw .unexpectedAnswer }
      echoes.removeFirst()
      hasAnswered = true
      if let handshake {
        effects.append(.found(roundTrip: handshake, rate: nil))
        self.handshake = nil
      }
      learn(now - asked.sent)
      askForTrain(at: now)
    case .trainAnswer:
      guard let asked = train, asked.nonce == message.nonce else { throw .unexpectedAnswer }
      train?.heard = now
      // "Not now": asked again in its turn.
      if message.size == 0 { endTrain(at: now) } else { train?.left = Int(message.size) }
    case .echo, .train: throw .unexpectedAnswer
    }
    return true
  }

  private mutating func echo(at now: Instant) {
    nextEcho = now + interval
    guard echoes.count < ProbeLimits.maximumOutstanding else { return }
    send(.echo, size: 0)
    echoes.append((lastNonce, now))
  }

  /// Only when no echo is under way: the train would delay its answer.
  private mutating func askForTrain(at now: Instant) {
    guard train == nil, echoes.isEmpty, now >= nextTrain else { return }
    nextTrain = now + limits.trainInterval
    let wanted = lastRate?.bytes(in: limits.trainSpan).octets
    let size = wanted.map { min(max($0, limits.smallestTrain), limits.largestTrain) } ?? limits.firstTrain
    send(.train, size: UInt32(min(size, ProbeLimits.maximumTrain)))
    train = Train(nonce: lastNonce, asked: now, heard: now)
  }

  private mutating func endTrain(at now: Instant) {
    guard let ended = train else { return }
    train = nil
    if let rate = ended.dispersion.rate(roundTrip: lastRoundTrip ?? .zero) {
      lastRate = rate
      freshRate = rate
      // The rate is reported with a round trip, and this one measures the path with the train off it.
      echo(at: now)
    }
  }

  private mutating func learn(_ roundTrip: TimeSpan) {
    lastRoundTrip = roundTrip
    smoothed = smoothed.map { ($0 * 7 + roundTrip) / 8 } ?? roundTrip
    effects.append(.found(roundTrip: roundTrip, rate: freshRate))
    freshRate = nil
  }

  private mutating func send(_ kind: ProbeMessage.Kind, size: UInt32) {
    lastNonce &+= 1
    var request = ByteBuffer()
    ProbeMessage(kind: kind, size: size, nonce: lastNonce).write(into: &request)
    effects.append(.send(request))
  }

  private mutating func fail(_ reason: String) {
    hasFailed = true
    effects.append(.failed(reason))
  }
}
