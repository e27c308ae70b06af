import Vocabulary

/// What `longhaul lab run handover` is told.
package struct LabSettings: Sendable, Hashable {
  package enum Migration: String, Sendable, Hashable, CaseIterable {
    case complete
    /// Leave the machine where it is.
    case none
    /// Cancel the migration half-way.
    case cancel
    /// Kill the destination's hypervisor half-way.
    case killDestination
  }

  /// Octets of the file.
  package var size = ByteCount.mebibytes(50)
  /// Of each WAN link.
  package var rate = BitRate.megabitsPerSecond(100)
  package var roundTripBefore = TimeSpan.milliseconds(10 as Int64)
  package var roundTripAfter = TimeSpan.milliseconds(300 as Int64)
  /// Of each segment on the WAN, 0 to 1.
  package var loss = 0.0
  package var usesAccelerators = true
  /// Paths with a longer round trip get accelerators, where there are some: the controller's own default.
  package var delayThreshold = TimeSpan.milliseconds(50 as Int64)
  package var migration = Migration.complete
  package var seed: UInt64 = 1
  /// The client's receive window in octets; nil leaves the kernel's own. The paper's endpoints had 64 KiB.
  package var endpointWindow: Int? = 65_536
  /// What QEMU may send while it copies the guest's memory.
  package var migrationRate = BitRate.megabitsPerSecond(800)
  package var usesKVM = false
  /// Where a ready guest is kept (a saved state of about 60 MB), so that the next run need not boot one; nil boots.
  package var savedGuest: String?
  /// The agent that goes into the guest; nil: `longhaul-agent` beside this program.
  package var agentProgram: String?
  /// The program whose commands run the nodes; nil: this one.
  package var program: String?
  /// Where the logs of all parts go; nil: nowhere, unless the run fails.
  package var logFolder: String?

  package init() {}

  /// Before the accelerators are asked: 100 ms at the link's rate, and 100 kB for very slow links, wait in each direction.
  package var queue: ByteCount { rate.bytes(in: .milliseconds(100 as Int64)) + ByteCount(100_000) }

  /// The smallest file in which a migration can begin and end: 4 MiB.
  package static let leastSize = ByteCount.mebibytes(4)
  /// The largest: the NAS is a file under the run folder, and the emulated WAN is no place for days of transfer.
  package static let greatestSize = ByteCount.mebibytes(4_096)

  /// Throws on what cannot be.
  package func check() throws(LabError) {
    guard size >= LabSettings.leastSize, size <= LabSettings.greatestSize else {
      throw .badSetting("--size", "must be from 4 MiB to 4 GiB")
    }
    guard rate.megabitsPerSecond >= 1, rate.megabitsPerSecond <= 10_000 else {
      throw .badSetting("--rate", "must be from 1 to 10000 Mbit/s")
    }
    for (option, value) in [("--rtt-before", roundTripBefore), ("--rtt-after", roundTripAfter)] {
      guard value >= .zero, value <= .seconds(2 as Int64) else { throw .badSetting(option, "must be from 0 to 2000 ms") }
    }
    guard loss >= 0, loss <= 0.5 else { throw .badSetting("--loss", "must be from 0 to 50 percent") }
    guard migrationRate.megabitsPerSecond >= 8, migrationRate.megabitsPerSecond <= 100_000 else {
      throw .badSetting("--migration-rate", "must be from 8 to 100000 Mbit/s")
    }
    if let endpointWindow, !(4_096...(1 << 30)).contains(endpointWindow) {
      throw .badSetting("--endpoint-window", "must be auto, or from 4096 to 1073741824 octets")
    }
  }
}

/// Why a lab run did not come to its end. Each description is a whole line for a person.
package enum LabError: Error, Sendable, CustomStringConvertible {
  case badSetting(String, String)
  case notRoot
  case missingProgram(String, package: String)
  case missingFile(String, hint: String)
  case running(lock: String)
  /// A part ended, or did not become ready; `log` is its last words.
  case partFailed(String, what: String, log: [String])
  case downloadFailed(String)
  case migrationFailed(String)
  case network(String)
  case controller(String)

  package var description: String {
    switch self {
    case .badSetting(let option, let what): return "lab: \(option) \(what)"
    case .notRoot: return "lab: needs root, to make network namespaces and TUN devices: run it with sudo"
    case .missingProgram(let name, let package):
      return "lab: \(name) is not on this machine: install Debian's package \(package), or run scripts/setup"
    case .missingFile(let path, let hint): return "lab: \(path) is missing: \(hint)"
    case .running(let lock): return "lab: another run is going on (it holds \(lock)): wait for its end, or stop it"
    case .partFailed(let part, let what, let log):
      let last = log.suffix(3).joined(separator: " | ")
      return "lab: \(part) \(what)" + (last.isEmpty ? "" : "; its last words: \(last)")
    case .downloadFailed(let reason): return "lab: the download failed: \(reason)"
    case .migrationFailed(let reason): return "lab: the migration failed: \(reason)"
    case .network(let reason): return "lab: the network could not be built: \(reason)"
    case .controller(let reason): return "lab: the controller: \(reason)"
    }
  }
}
