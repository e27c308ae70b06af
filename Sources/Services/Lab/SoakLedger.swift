import Synchronization
import Vocabulary

/// What has become of the soak's connections. Told at their beginnings and ends, from all event loops.
final class SoakLedger: Sendable {
  /// How one end saw a connection end.
  enum Ending: String, Sendable, CaseIterable {
    /// Both directions whole.
    case whole
    /// By a RST that the plan has in it.
    case asPlanned = "aborted as planned"
    /// The accelerator did not take the connection, or could not reach the server; at the server, before anything had come.
    case refused
    /// By a RST.
    case reset
    /// By a FIN, before everything had come.
    case cutShort = "ended early"
    /// Other octets than the plan's.
    case wrong = "WRONG OCTETS"
  }

  enum Side: Int, Sendable {
    case near, far

    var name: String { self == .near ? "a" : "b" }
  }

  /// An accelerator was killed, and is there again.
  private struct Outage {
    var from: Instant
    var until: Instant?
  }

  private struct State {
    var alive: [UInt64: Instant] = [:]
    /// Of those the ones that have reached the server, and when.
    var running: [UInt64: Instant] = [:]
    var serving = 0
    var mostAlive = 0
    var outages: [Outage] = []
    var endings: [String: Int] = [:]
    var faults: [String] = []
    var faultCount = 0
    var octets = 0
  }

  /// After an accelerator is back its peer may need a pause of up to 5 s to dial again (TunnelPool.longestPause), and connections wait for it as long; a busy machine takes longer.
  static let aftermath = TimeSpan.seconds(8 as Int64)
  /// Enough to see what is the matter.
  private static let rememberedFaults = 50

  private let state = Mutex(State())

  var aliveCount: Int { state.withLock { $0.alive.count } }
  var servingCount: Int { state.withLock { $0.serving } }
  var mostAlive: Int { state.withLock { $0.mostAlive } }
  var octets: Int { state.withLock { $0.octets } }
  var endings: [String: Int] { state.withLock { $0.endings } }
  var faults: (count: Int, first: [String]) { state.withLock { ($0.faultCount, $0.faults) } }

  func began(_ number: UInt64, at now: Instant) {
    state.withLock {
      $0.alive[number] = now
      $0.mostAlive = max($0.mostAlive, $0.alive.count)
    }
  }

  /// An answer has come to a client's CONNECT: from here on the connection goes through both accelerators.
  func runs(_ number: UInt64, at now: Instant) { state.withLock { $0.running[number] = now } }

  func serverBegan() { state.withLock { $0.serving += 1 } }
  func carried(_ octets: Int) { state.withLock { $0.octets += octets } }

  func ended(_ number: UInt64, _ ending: Ending, _ detail: @autoclosure () -> String, at now: Instant) {
    state.withLock { state in
      guard let began = state.alive.removeValue(forKey: number) else { return }
      state.running[number] = nil
      state.endings["client: \(ending.rawValue)", default: 0] += 1
      judge(ending, began: began, now: now, "client", number, detail(), &state)
    }
  }

  func serverEnded(_ number: UInt64?, began: Instant, _ ending: Ending, _ detail: @autoclosure () -> String, at now: Instant) {
    state.withLock { state in
      state.serving -= 1
      state.endings["server: \(ending.rawValue)", default: 0] += 1
      judge(ending, began: began, now: now, "server", number ?? 0, detail(), &state)
    }
  }

  func killed(at now: Instant) { state.withLock { $0.outages.append(Outage(from: now)) } }

  func restored(at now: Instant) {
    state.withLock { if let last = $0.outages.indices.last { $0.outages[last].until = now } }
  }

  /// Connections that went through both accelerators at the moment and have not ended. (One that waits for its peer may have its whole life after the peer's return.)
  func running(since moment: Instant) -> [UInt64] { state.withLock { $0.running.filter { $0.value < moment }.map(\.key).sorted() } }

  /// All that have not ended.
  var open: [UInt64] { state.withLock { $0.alive.keys.sorted() } }

  func fault(_ text: String) { state.withLock { add(text, &$0) } }

  private func judge(
    _ ending: Ending, began: Instant, now: Instant, _ end: String, _ number: UInt64, _ detail: String, _ state: inout State
  ) {
    let isExcused = state.outages.contains { outage in
      outage.from <= now && (outage.until.map { $0 + SoakLedger.aftermath } ?? now) >= began
    }
    switch ending {
    case .whole, .asPlanned: return
    case .refused, .reset: if isExcused { return }
    // An accelerator that is killed resets its connections.
    case .cutShort, .wrong: break
    }
    add("\(end) of connection \(number): \(ending.rawValue): \(detail)", &state)
  }

  private func add(_ text: String, _ state: inout State) {
    state.faultCount += 1
    if state.faults.count < SoakLedger.rememberedFaults { state.faults.append(text) }
  }
}
