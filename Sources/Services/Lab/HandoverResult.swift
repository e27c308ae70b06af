import Control
import Vocabulary
import WANEmulation

/// What a run showed, as it is written to JSON: times in milliseconds, rates in Mbit/s of application octets.
package struct HandoverResult: Codable, Sendable {
  package struct Event: Codable, Sendable, Hashable {
    /// Seconds since the download began.
    package var t: Double
    package var actor: String
    package var event: String
  }

  /// A point of the throughput curve: octets that reached the application in the tenth of a second before `t`.
  package struct Sample: Codable, Sendable, Hashable {
    package var t: Double
    package var octets: Int
  }

  package struct Settings: Codable, Sendable, Hashable {
    package var sizeOctets: Int
    package var rateMbps: Double
    package var roundTripBeforeMilliseconds: Double
    package var roundTripAfterMilliseconds: Double
    package var lossPercent: Double
    package var endpointWindowOctets: Int?
    package var migrationRateMbps: Double
    package var seed: UInt64
    package var migration: String
    package var accelerators: Bool
  }

  package var settings: Settings
  /// Octets that reached the application.
  package var bytes: Int
  package var sha256: String
  package var sha256Matches: Bool
  package var bytesLost: Int
  package var bytesDuplicated: Int
  /// Connections that the application opened: one for FTP's control and one for each transfer, if none had to be opened again.
  package var applicationConnections: Int
  /// Measured by ping from the client's PC to the machine, at Center 1 before and where it runs after.
  package var rttBeforeMilliseconds: Double?
  package var rttAfterMilliseconds: Double?
  /// From the first octet to the beginning of the migration.
  package var rateBeforeMbps: Double
  /// While the memory was copied.
  package var rateDuringMbps: Double?
  /// From the end of the longest gap (or, without a migration, from where it would have begun) to the last octet.
  package var rateAfterMbps: Double
  package var acceleratorInserted: Bool
  package var insertionReason: String?
  package var migrationOutcome: String?
  /// From the source's STOP to the destination's RESUME, by the hypervisor's own time stamps.
  package var hypervisorDowntimeMilliseconds: Double?
  /// What `query-migrate` calls downtime.
  package var hypervisorReportedDowntimeMilliseconds: Double?
  package var migrationTotalMilliseconds: Double?
  package var migrationOctets: Int64?
  /// The longest gap between octets at the application.
  package var interruptionMilliseconds: Double
  /// From RESUME to the client's taking the GO.
  package var goLatencyMilliseconds: Double?
  /// From taking the GO to the confirmed carrier.
  package var goToConfirmedMilliseconds: Double?
  package var downloadSeconds: Double
  /// From the first octet to the last.
  package var dataPhaseSeconds: Double
  package var timeline: [Event]
  package var throughput: [Sample]
  package var wan: [LinkReport]

  /// Interruption minus the hypervisor's own pause: what is ours.
  package var ownInterruptionMilliseconds: Double? { hypervisorDowntimeMilliseconds.map { interruptionMilliseconds - $0 } }

  /// What is wrong with the run, in words; empty if nothing is.
  package var faults: [String] {
    var faults: [String] = []
    if !sha256Matches { faults.append("the file's SHA-256 is wrong") }
    if bytesLost > 0 { faults.append("\(bytesLost) octets were lost") }
    if bytesDuplicated > 0 { faults.append("\(bytesDuplicated) octets came twice") }
    // curl opens one control connection and one data connection for a file.
    if applicationConnections != 2 { faults.append("the application opened \(applicationConnections) connections instead of 2") }
    let expected: String? =
      switch LabSettings.Migration(rawValue: settings.migration) {
      case .complete?: HandoverOutcome.Result.completed.rawValue
      case .cancel?, .killDestination?: HandoverOutcome.Result.rolledBack.rawValue
      case .none?, nil: nil
      }
    if let expected, migrationOutcome != expected {
      faults.append("the controller calls the migration \(migrationOutcome ?? "unknown") where \(expected) was expected")
    }
    return faults
  }
}

/// The figures of a download, from its reads.
package struct DownloadFigures: Sendable, Hashable {
  package var rateBefore: Double
  package var rateDuring: Double?
  package var rateAfter: Double
  package var gapStart: Double
  package var gapEnd: Double
  package var dataPhase: Double

  /// - Parameter migration: when the migration began, in seconds of the download; nil if there was none.
  package init?(_ reads: [Download.Read], migration: Double?, wouldBegin: Double) {
    guard reads.count >= 3, let first = reads.first, let last = reads.last else { return nil }
    gapStart = first.seconds
    gapEnd = first.seconds
    for (earlier, later) in zip(reads, reads.dropFirst()) where later.seconds - earlier.seconds > gapEnd - gapStart {
      (gapStart, gapEnd) = (earlier.seconds, later.seconds)
    }
    dataPhase = last.seconds - first.seconds
    // The octets of the read that begins a stretch had come before it.
    func rate(from: Double, to: Double) -> Double? {
      guard to - from > 0.02 else { return nil }
      let octets = reads.lazy.filter { $0.seconds > from && $0.seconds <= to }.reduce(0) { $0 + $1.octets }
      return Double(octets) * 8 / 1e6 / (to - from)
    }
    let overall = rate(from: first.seconds, to: last.seconds) ?? 0
    let split = migration ?? wouldBegin
    rateBefore = rate(from: first.seconds, to: split) ?? overall
    if let migration {
      rateDuring = gapStart > migration ? rate(from: migration, to: gapStart) : nil
      rateAfter = rate(from: max(gapEnd, migration), to: last.seconds) ?? overall
    } else {
      rateAfter = rate(from: split, to: last.seconds) ?? overall
    }
  }

  package static func samples(of reads: [Download.Read]) -> [HandoverResult.Sample] {
    guard let last = reads.last else { return [] }
    var tenths = [Int](repeating: 0, count: Int(last.seconds * 10) + 1)
    for read in reads { tenths[Int(read.seconds * 10)] += read.octets }
    return tenths.enumerated().map { HandoverResult.Sample(t: Double($0.offset + 1) / 10, octets: $0.element) }
  }
}
