import Glibc
import Synchronization
import TestSupport

/// A TCP relay between client and agent whose connections a test can cut, as a network that forgets them does: each side sees a RST, and what
/// was under way is lost. New connections go through, unless the wire is down.
final class Wire: Sendable {
  let port: UInt16
  private let listener: Socket
  private let target: UInt16
  private struct State {
    var pairs: [(Socket, Socket)] = []
    var isDown = false
    var isStalled = false
    var isRefusing = false
    var accepted = 0
    /// What went to the agent on each connection, and all that came back.
    var sent: [[UInt8]] = []
    var returned: [UInt8] = []
    var octets = (sent: 0, returned: 0)
    var isForging = false
  }
  /// Octets of each connection that are kept: the beginning is what tests look at.
  private static let kept = 1 << 20
  private let state = Mutex(State())

  /// - Parameter host: the one loopback address where it listens (127.0.0.2 is 0x7f00_0002), 0 for all.
  init(to target: UInt16, at host: UInt32 = 0, port: UInt16 = 0) throws {
    (listener, self.port) = try Socket.listen(at: host, port: port)
    self.target = target
    start { wire in
      while let near = try? wire.listener.acceptForever() { wire.join(near) }
    }
  }

  /// What was sent to the agent, a list for each connection, and what came back on all of them.
  var heard: (sent: [[UInt8]], returned: [UInt8]) { state.withLock { ($0.sent, $0.returned) } }

  /// How many octets have gone to the agent, and come back.
  var octets: (sent: Int, returned: Int) { state.withLock { $0.octets } }

  /// From now on each new connection is answered with these octets in place of the agent's, and ended.
  func setForging(_ isForging: Bool) { state.withLock { $0.isForging = isForging } }

  var accepted: Int { state.withLock { $0.accepted } }

  struct NotDialled: Error {}

  /// Until so many connections have come in.
  func waitForAccepted(_ count: Int) throws {
    let deadline = ContinuousClock.now + .seconds(20)
    while accepted < count {
      guard ContinuousClock.now < deadline else { throw NotDialled() }
      usleep(1_000)
    }
  }

  func cut() {
    for (near, far) in state.withLock({
      let pairs = $0.pairs; $0.pairs = []; return pairs
    }) {
      near.reset()
      far.reset()
    }
  }

  /// No more connections from here on; those that stand go on.
  func refuse() { state.withLock { $0.isRefusing = true } }

  /// Connections stand, and nothing comes through: a network that swallows everything.
  func setStalled(_ isStalled: Bool) { state.withLock { $0.isStalled = isStalled } }

  private func waitWhileStalled() {
    while state.withLock({ $0.isStalled }) { usleep(2_000) }
  }

  func setDown(_ isDown: Bool) {
    state.withLock { $0.isDown = isDown }
    if isDown { cut() }
  }

  private func join(_ near: Socket) {
    if state.withLock({ $0.isForging }) {
      return start { wire in
        _ = try? near.readForever()
        // A frame of one octet: the notice that the session is unknown (docs/wire/sealing.md).
        try? near.write([0, 1, 1])
        near.endOutput()
        wire.state.withLock {
          $0.accepted += 1
          $0.isForging = false
        }
      }
    }
    guard !state.withLock({ $0.isDown || $0.isRefusing }), let far = try? Socket.connect(target) else { return near.reset() }
    state.withLock {
      $0.pairs.append((near, far))
      $0.accepted += 1
      $0.sent.append([])
    }
    let number = state.withLock { $0.sent.count - 1 }
    for (from, to, isSent) in [(near, far, true), (far, near, false)] {
      start { wire in
        while let bytes = try? from.readForever(), !bytes.isEmpty {
          wire.waitWhileStalled()
          wire.hear(bytes, on: number, isSent: isSent)
          guard (try? to.write(bytes)) != nil else { break }
        }
        to.endOutput()
      }
    }
  }

  private func hear(_ bytes: [UInt8], on number: Int, isSent: Bool) {
    state.withLock {
      if isSent { $0.octets.sent += bytes.count } else { $0.octets.returned += bytes.count }
      if isSent, $0.sent[number].count < Wire.kept { $0.sent[number] += bytes }
      if !isSent, $0.returned.count < Wire.kept { $0.returned += bytes }
    }
  }

  private func start(_ work: @escaping @Sendable (Wire) -> Void) {
    Task.detached { [self] in try? await onThread { work(self) } }
  }
}

extension Socket {
  /// As `accept` and `read`, but a limit that passes is no failure: a wire waits as long as its test does.
  func acceptForever() throws -> Socket {
    while true {
      do { return try accept() } catch let failure as Failure where failure.code == EAGAIN { continue }
    }
  }

  func readForever() throws -> [UInt8] {
    while true {
      do { return try read() } catch let failure as Failure where failure.code == EAGAIN { continue }
    }
  }
}
