import Foundation

extension HandoverResult {
  /// The timeline and the table, for a person.
  package var report: String {
    var lines = ["", "Timeline (seconds since the download began)"]
    let width = timeline.map(\.actor.count).max() ?? 0
    for event in timeline {
      lines.append(
        String(format: "%9.3f  ", event.t) + event.actor.padding(toLength: width, withPad: " ", startingAt: 0) + "  \(event.event)")
    }
    lines += ["", "                              before        after"]
    lines.append(row("round trip", rttBeforeMilliseconds, rttAfterMilliseconds, "ms"))
    lines.append(row("rate", rateBeforeMbps, rateAfterMbps, "Mbit/s"))
    lines.append("")
    func line(_ name: String, _ value: String) { lines.append(name.padding(toLength: 28, withPad: " ", startingAt: 0) + value) }
    func figure(_ value: Double?, _ unit: String) -> String { value.map { String(format: "%.1f %@", $0, unit) } ?? "-" }
    line("rate after / before", String(format: "%.2f", rateAfterMbps / max(rateBeforeMbps, 0.001)))
    line("file", "\(bytes) octets, SHA-256 \(sha256Matches ? "right" : "WRONG"), \(bytesLost) lost, \(bytesDuplicated) twice")
    line(
      "application connections",
      "\(applicationConnections)" + (applicationConnections == 2 ? " (one control, one data: none reopened)" : ""))
    line("migration", migrationOutcome ?? "none")
    if migrationOutcome != nil {
      line("accelerators", acceleratorsText)
      line("hypervisor's downtime", figure(hypervisorDowntimeMilliseconds, "ms (STOP to RESUME)"))
      line("longest gap at application", figure(interruptionMilliseconds, "ms"))
      line("of that ours", figure(ownInterruptionMilliseconds, "ms"))
      line("RESUME to GO at the client", figure(goLatencyMilliseconds, "ms"))
      line("GO to confirmed carrier", figure(goToConfirmedMilliseconds, "ms"))
    }
    line("download", String(format: "%.2f s in all, %.2f s of data", downloadSeconds, dataPhaseSeconds))
    let lateness = wan.flatMap { [$0.aToZ, $0.zToA] }
    line(
      "WAN emulator",
      String(
        format: "late by %.3f ms on average, %.1f ms at most; %d segments dropped by its queue, %d by loss",
        (lateness.map(\.meanLatenessMicroseconds).max() ?? 0) / 1e3, (lateness.map(\.maximumLatenessMicroseconds).max() ?? 0) / 1e3,
        lateness.reduce(0) { $0 + $1.droppedByQueue }, lateness.reduce(0) { $0 + $1.droppedByLoss }))
    if !faults.isEmpty { lines += [""] + faults.map { "FAULT: \($0)" } }
    return lines.joined(separator: "\n") + "\n"
  }

  private var acceleratorsText: String {
    if acceleratorInserted { return "inserted: \(insertionReason ?? "-")" }
    return settings.migration == LabSettings.Migration.complete.rawValue
      ? "not inserted: \(insertionReason ?? "-")" : "not needed: the machine stayed"
  }

  private func row(_ name: String, _ before: Double?, _ after: Double?, _ unit: String) -> String {
    func cell(_ value: Double?) -> String { value.map { String(format: "%12.1f", $0) } ?? "           -" }
    return name.padding(toLength: 22, withPad: " ", startingAt: 0) + "\(cell(before)) \(cell(after)) \(unit)"
  }
}
