import Vocabulary

/// What `longhaul bench accelerator` is told.
package struct AcceleratorBenchSettings: Sendable, Hashable {
  package var rates = [BitRate.megabitsPerSecond(100)]
  package var roundTrips: [TimeSpan] = [0, 20, 100, 300, 500].map { .milliseconds($0 as Int64) }
  /// Of each segment on the WAN, 0 to 1.
  package var losses = [0, 0.001, 0.01]
  /// Octets of each object.
  package var sizes = [10_000, 1_000_000, 10_000_000, 50_000_000]
  package var contents = BenchObject.Kind.allCases
  package var ways = AcceleratorWay.allCases
  package var repeats = 3
  package var seed: UInt64 = 1
  /// A transfer that is not through by then is stopped, and its time computed from the rate of its second half.
  package var transferLimit = TimeSpan.seconds(12 as Int64)
  /// Nothing new is begun after this; what was left out is said.
  package var budget = TimeSpan.seconds(2_400 as Int64)
  /// Real programs through the pair, too: FTP, HTTP, and somebody who types.
  package var measuresProtocols = false
  /// Further options of both accelerators.
  package var options: [String] = []
  /// The program whose commands run the nodes; nil: this one.
  package var program: String?
  package var logFolder: String?

  package init() {}

  /// Throws on what cannot be.
  package func check() throws(LabError) {
    guard !rates.isEmpty, rates.allSatisfy({ $0.megabitsPerSecond >= 1 && $0.megabitsPerSecond <= 10_000 }) else {
      throw .badSetting("--rates", "must be a list of Mbit/s from 1 to 10000, for instance 100,1000")
    }
    guard !roundTrips.isEmpty, roundTrips.allSatisfy({ $0 >= .zero && $0 <= .seconds(2 as Int64) }) else {
      throw .badSetting("--rtt", "must be a list of milliseconds from 0 to 2000, for instance 0,20,100")
    }
    guard !losses.isEmpty, losses.allSatisfy({ $0 >= 0 && $0 <= 0.5 }) else {
      throw .badSetting("--loss", "must be a list of percents from 0 to 50, for instance 0,0.1,1")
    }
    guard !sizes.isEmpty, sizes.allSatisfy({ (1...(1 << 30)).contains($0) }) else {
      throw .badSetting("--objects", "must be a list of sizes from 1 to 1G, for instance 10K,1M,50M")
    }
    guard !contents.isEmpty, !ways.isEmpty else { throw .badSetting("--contents and --ways", "must name at least one each") }
    guard (1...100).contains(repeats) else { throw .badSetting("--repeat", "must be from 1 to 100") }
    guard transferLimit >= .seconds(1 as Int64), transferLimit <= .seconds(3_600 as Int64) else {
      throw .badSetting("--limit", "must be from 1 to 3600 s")
    }
    guard budget >= .seconds(1 as Int64), budget <= .seconds(86_400 as Int64) else {
      throw .badSetting("--minutes", "must be up to 1440")
    }
  }
}
