import Vocabulary

/// What `longhaul bench handover` is told.
package struct BenchSettings: Sendable, Hashable {
  /// Each is measured with each loss. Both centers are this far from the client.
  package var roundTrips: [TimeSpan] = [10, 50, 100, 200, 300, 500].map { .milliseconds($0 as Int64) }
  /// Of each segment on the WAN, 0 to 1.
  package var losses = [0.0]
  /// Handovers for each pair, there and back in turns.
  package var moves = 20
  /// From the beginning of a migration to the machine's stop.
  package var hold = TimeSpan.milliseconds(200 as Int64)
  /// From the machine's stop at one center to its running at the other.
  package var downtime = TimeSpan.milliseconds(100 as Int64)
  /// Of each WAN link.
  package var rate = BitRate.megabitsPerSecond(100)
  package var sourceRate = BitRate.megabitsPerSecond(5)
  package var tick = TimeSpan.milliseconds(1 as Int64)
  /// With accelerators at the client's site and at both centers, on every path: the first flight waits beside the machine's future place.
  package var isParked = false
  /// Clients, each with a session and a stream of its own, that move at once.
  package var sessions = 1
  /// Moves of Linux's MPTCP that are measured beside; zero for none.
  package var multipathMoves = 0
  /// How long a move of MPTCP is waited for: its subflow's SYN is sent again after 1, 2, 4, 8, 16 s, and what we know of took 16 s or never came.
  package var multipathLimit = TimeSpan.seconds(40 as Int64)
  package var seed: UInt64 = 1
  /// The program whose commands run the nodes; nil: this one.
  package var program: String?
  /// The agent; nil: `longhaul-agent` beside the program.
  package var agentProgram: String?
  package var logFolder: String?

  package init() {}

  /// Throws on what cannot be.
  package func check() throws(LabError) {
    guard !roundTrips.isEmpty, roundTrips.allSatisfy({ $0 >= .zero && $0 <= .seconds(2 as Int64) }) else {
      throw .badSetting("--rtt", "must be a list of milliseconds from 0 to 2000, for instance 10,50,100")
    }
    guard !losses.isEmpty, losses.allSatisfy({ $0 >= 0 && $0 <= 0.5 }) else {
      throw .badSetting("--loss", "must be a list of percents from 0 to 50, for instance 0,1")
    }
    guard (1...10_000).contains(moves) else { throw .badSetting("--moves", "must be from 1 to 10000") }
    guard hold >= .zero, hold <= .seconds(600 as Int64) else { throw .badSetting("--hold", "must be from 0 to 600 s") }
    guard (1...64).contains(sessions) else { throw .badSetting("--sessions", "must be from 1 to 64") }
    guard (0...1_000).contains(multipathMoves) else { throw .badSetting("--mptcp", "must be from 0 to 1000 moves") }
    guard downtime >= .zero, downtime <= .seconds(60 as Int64) else { throw .badSetting("--downtime", "must be from 0 to 60000 ms") }
    guard rate.megabitsPerSecond >= 1, rate.megabitsPerSecond <= 10_000 else {
      throw .badSetting("--rate", "must be from 1 to 10000 Mbit/s")
    }
    guard sourceRate.megabitsPerSecond >= 0.001, sourceRate.megabitsPerSecond <= 1_000 else {
      throw .badSetting("--source-rate", "must be from 0.001 to 1000 Mbit/s")
    }
  }

  /// The lab's settings for one pair.
  func lab(roundTrip: TimeSpan, loss: Double) -> LabSettings {
    var settings = LabSettings()
    settings.roundTripBefore = roundTrip
    settings.roundTripAfter = roundTrip
    settings.loss = loss
    settings.rate = rate
    settings.seed = seed
    settings.endpointWindow = nil  // endpoints as they are today; the paper's 64 KiB would limit what this does not measure
    settings.usesAccelerators = isParked
    settings.delayThreshold = .zero
    settings.program = program
    settings.agentProgram = agentProgram
    settings.logFolder = logFolder
    return settings
  }
}
