import ArgumentParser
import Authentication
import Certificates
import CommandSupport
import Control
import Controller
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

struct StatusCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "status", abstract: "Shows what the controller knows: machines, nodes, paths and migrations.")

  @Option(help: "The controller, ADDRESS:PORT.")
  var controller: Endpoint

  @Option(help: "The file with the endpoint key (see `longhaul keygen`).")
  var keyFile: String?

  @Option(help: "The folder with an operator's certificate (see `longhaul pki`), for a controller that wants one.")
  var certificates: String?

  @Flag(help: "One JSON document, for programs.")
  var json = false

  @Flag(help: "Goes on with the timeline, line by line as it happens.")
  var follow = false

  func validate() throws {
    if keyFile == nil, certificates == nil {
      throw ValidationError("--certificates DIR or --key-file FILE is missing (see `longhaul pki` and `longhaul keygen`)")
    }
    if json, follow { throw ValidationError("--json and --follow exclude each other: the timeline has no end") }
  }

  func run() async throws {
    let token = try keyFile.map { try EndpointKey(contentsOf: $0).bearerToken }
    let identity = try certificates.map { try IdentityKeeper(directory: $0) }
    guard let credentials = ControlCredentials(token: token, identity: identity) else { return }  // `validate` has said it
    let client = ControllerClient(controller: controller, credentials: credentials)
    let overview = Overview(
      status: try await client.get("/v1/status"), nodes: try await client.get("/v1/nodes"), paths: try await client.get("/v1/paths"),
      migrations: try await client.get("/v1/migrations"))
    if json {
      let encoder = JSONEncoder()
      encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
      print(String(decoding: try encoder.encode(overview), as: UTF8.self))
      return
    }
    print(overview.text)
    guard follow else { return }
    try await runUntilSignalled { try await printTimeline(of: client) }
  }

  private func printTimeline(of client: ControllerClient) async throws {
    print("\nTIMELINE")
    fflush(nil)  // behind a pipe, too, each line is wanted when it happens
    for try await line in try await client.events("/v1/timeline/events?since=0") {
      guard let entry = try? JSONDecoder().decode(TimelineEntry.self, from: Data(line.utf8)) else { continue }
      print("\(clock(entry.atMicroseconds))  \(entry.actor): \(entry.event)")
      fflush(nil)
    }
    if !Task.isCancelled { throw ControllerClientError.broken(controller, reason: "it ended the timeline") }
  }
}

/// All that `status` shows.
private struct Overview: Encodable {
  var status: StatusDocument
  var nodes: [NodeDocument]
  var paths: [PathDocument]
  var migrations: [MigrationReport]

  var text: String {
    let head =
      "controller \(status.version), up for \(duration(status.uptimeSeconds)); \(status.connectedNodes) of \(status.nodes) nodes connected"
    return [head, "", machineTable, "", nodeTable, "", pathTable, "", migrationTable].joined(separator: "\n")
  }

  private var machineTable: String {
    table(
      "MACHINES", ["machine", "runs at", "site", "agent", "guest", "hypervisor"],
      status.machines.flatMap { machine in
        machine.places.enumerated().map { index, place in
          [
            index == 0 ? machine.machine.text : "", index == 0 ? machine.home?.text ?? "unknown" : "", place.site.text, "\(place.agent)",
            place.guest ?? "not connected", place.hypervisor,
          ]
        }
      })
  }

  private var nodeTable: String {
    table(
      "NODES", ["node", "role", "site", "machines", "link", "for", "entrance", "probe", "version"],
      nodes.map { node in
        let description = node.description
        let machines = (description.machine.map { [$0] } ?? []) + description.machines
        return [
          description.node.text, description.role.rawValue, description.site?.text ?? "-",
          machines.isEmpty ? "-" : machines.map(\.text).joined(separator: ","), node.isConnected ? "up" : "down",
          duration(node.sinceSeconds),
          description.entrance.map { "\($0)" } ?? "-", description.probe.map { "\($0)" } ?? "-", description.version,
        ]
      })
  }

  private var pathTable: String {
    table(
      "PATHS", ["from", "to", "round trip", "smoothed", "rate", "loss", "age", "route", "why"],
      paths.map { path in
        [
          path.from.text, path.to.text, milliseconds(path.roundTripMilliseconds), milliseconds(path.smoothedRoundTripMilliseconds),
          (path.rateMegabitsPerSecond ?? path.configuredRateMegabitsPerSecond).map { "\(decimal($0)) Mbit/s" } ?? "-",
          path.lossPercent.map { "\(decimal($0)) %" } ?? "-",
          path.ageSeconds.map { duration($0) + (path.isStale ? " (stale)" : "") } ?? "-",
          path.isAccelerated ? path.route.map(\.text).joined(separator: " > ") : "direct",
          path.trouble.map { "unreachable: \($0)" } ?? path.reason ?? "-",
        ]
      })
  }

  private var migrationTable: String {
    table(
      "MIGRATIONS", ["migration", "from", "to", "state", "downtime", "resume to GO", "last client", "took", "why"],
      migrations.map { migration in
        [
          migration.migration.text, migration.source.text, migration.destination.text, migration.state,
          milliseconds(migration.figures.downtimeMilliseconds ?? migration.stopToResumeMilliseconds),
          milliseconds(migration.resumeToGoMilliseconds), milliseconds(migration.goLatencyMilliseconds),
          milliseconds(migration.elapsedMilliseconds), migration.reason ?? migration.clients.compactMap(\.pathReason).first ?? "-",
        ]
      })
  }
}

// MARK: For people

/// Columns as wide as their widest cell; the last one is left as it is.
func table(_ title: String, _ header: [String], _ rows: [[String]]) -> String {
  guard !rows.isEmpty else { return "\(title)\n  none" }
  let all = [header] + rows
  let widths = header.indices.map { column in all.map { $0[column].count }.max() ?? 0 }
  let lines = all.map { row in
    let cells = row.enumerated().map { column, cell in
      column == row.count - 1 ? cell : cell + String(repeating: " ", count: widths[column] - cell.count)
    }
    return "  " + cells.joined(separator: "  ")
  }
  return ([title] + lines).joined(separator: "\n")
}

private func decimal(_ value: Double) -> String {
  let tenths = (value * 10).rounded()
  guard tenths.magnitude < 1e15 else { return "\(value)" }
  return tenths.truncatingRemainder(dividingBy: 10) == 0 ? "\(Int64(tenths) / 10)" : "\(tenths / 10)"
}

private func milliseconds(_ value: Double?) -> String { value.map { "\(decimal($0)) ms" } ?? "-" }

private func duration(_ seconds: Double) -> String {
  switch seconds {
  case ..<60: "\(decimal(seconds)) s"
  case ..<3_600: "\(decimal(seconds / 60)) min"
  default: "\(decimal(seconds / 3_600)) h"
  }
}

/// The time of day in UTC, to the millisecond.
private func clock(_ microseconds: Int64) -> String {
  let thousandths = microseconds / 1_000 % 86_400_000
  func digits(_ value: Int64, _ count: Int) -> String {
    let text = String(value)
    return String(repeating: "0", count: max(0, count - text.count)) + text
  }
  let seconds = thousandths / 1_000
  return "\(digits(seconds / 3_600, 2)):\(digits(seconds / 60 % 60, 2)):\(digits(seconds % 60, 2)).\(digits(thousandths % 1_000, 3))"
}
