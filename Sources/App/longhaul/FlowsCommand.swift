import Accelerator
import ArgumentParser
import Certificates
import CommandSupport
import NIOCore
import Telemetry
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

struct FlowsCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "flows", abstract: "Shows the flows of an accelerator: who talks to whom, how much, and what of it crossed the WAN.")

  @Argument(help: "The accelerator's --metrics, ADDRESS:PORT.")
  var place: Endpoint

  @Option(help: "The folder with an operator's certificate (see `longhaul pki`), for an accelerator elsewhere that has one.")
  var certificates: String?

  @Option(help: "Show so many, the largest first.")
  var limit = 40

  @Flag(help: "One JSON document, for programs.")
  var json = false

  func validate() throws {
    guard (1...FlowsDocument.maximumRows).contains(limit) else {
      throw ValidationError("--limit \(limit): must be from 1 to \(FlowsDocument.maximumRows)")
    }
  }

  func run() async throws {
    var secure: (@Sendable (any Channel) throws -> Void)?
    if let certificates {
      let identity = try NodeIdentity(directory: certificates)
      secure = { channel in try identity.secure(channel.pipeline.syncOperations, as: .client, expecting: .accelerator) }
    }
    let answer = try await FiguresClient.get("/flows", at: place, secure: secure)
    guard let document = try? JSONDecoder().decode(FlowsDocument.self, from: Data(answer)) else { throw FiguresError.otherForm(place) }
    if json { return print(String(decoding: answer, as: UTF8.self), terminator: "") }
    let shown = document.flows.prefix(limit)
    print(
      table(
        "FLOWS of \(document.node): \(document.count)\(document.count > shown.count ? ", the largest \(shown.count)" : "")", Self.header,
        shown.map(row)))
  }

  private static let header = ["peer", "target", "tenant", "class", "age", "sent", "received", "on the WAN", "saved", "mean rate", "state"]

  private func row(_ flow: FlowsDocument.Row) -> [String] {
    [
      flow.peer.map { flow.isOpener ? "to \($0)" : "from \($0)" } ?? "-", flow.target, flow.tenant.isEmpty ? "-" : flow.tenant, flow.class,
      "\(Int(flow.ageSeconds)) s", amount(flow.sentOctets), amount(flow.receivedOctets),
      flow.peer == nil ? "-" : amount(flow.sentWireOctets + flow.receivedWireOctets),
      flow.reduction.map { "\(Int(($0 * 100).rounded())) %" } ?? "-", amount(Int(flow.bitsPerSecond / 8)) + "/s",
      flow.passed.map { "\(flow.state): \($0)" } ?? flow.state,
    ]
  }

  /// Three digits and a unit of 1,000.
  private func amount(_ octets: Int) -> String {
    var value = Double(octets)
    for unit in ["B", "kB", "MB", "GB"] {
      if value < 1_000 { return "\(value < 10 && unit != "B" ? "\((value * 10).rounded() / 10)" : "\(Int(value.rounded()))") \(unit)" }
      value /= 1_000
    }
    return "\((value * 10).rounded() / 10) TB"
  }
}
