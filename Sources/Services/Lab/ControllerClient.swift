import Control
import Foundation
import LinuxNetwork
import Vocabulary

/// The controller's API as an operator's tool would use it, by curl inside the control network.
struct ControllerClient: Sendable {
  static let port: UInt16 = 7_070
  private static let requestSeconds = "5"

  private let headerFile: String

  init(bearerToken: String, folder: RunFolder) throws(LabError) {
    headerFile = try folder.write("Authorization: Bearer \(bearerToken)\n", to: "authorization")
  }

  /// What the lab reads of `GET /v1/paths`.
  struct Path: Decodable, Sendable {
    var from: SiteID
    var to: SiteID
    var roundTripMilliseconds: Double?
    var rateMegabitsPerSecond: Double?
  }

  /// What the lab reads of `GET /v1/status`.
  struct Status: Decodable, Sendable {
    struct Place: Decodable, Sendable {
      var site: SiteID
      var guest: String?
    }
    struct Machine: Decodable, Sendable {
      var home: SiteID?
      var places: [Place]
      var migration: MigrationID?
    }
    var machines: [Machine]
  }

  /// What the lab reads of `GET /v1/nodes`.
  struct Node: Decodable, Sendable {
    var isConnected: Bool
  }

  func status() async throws -> Status { try await get("status") }
  func nodes() async throws -> [Node] { try await get("nodes") }
  func paths() async throws -> [Path] { try await get("paths") }
  func migrations() async throws -> [MigrationReport] { try await get("migrations") }
  func timeline() async throws -> [TimelineEntry] { try await get("timeline") }

  private func get<Value: Decodable & Sendable>(_ what: String) async throws -> Value {
    let url = "http://\(Topology.controlAddress):\(ControllerClient.port)/v1/\(what)"
    let command = Topology.control.command([
      "curl", "--silent", "--show-error", "--fail", "--max-time", ControllerClient.requestSeconds, "--header", "@\(headerFile)", url,
    ])
    let text = try await onThread { try Shell.run(command) }
    do {
      return try JSONDecoder().decode(Value.self, from: Data(text.utf8))
    } catch {
      throw LabError.controller("its answer to /v1/\(what) cannot be read: \(error)")
    }
  }

  /// Asks again and again until there is an answer that will do.
  func wait<Value: Sendable>(
    for what: String, limit: TimeSpan, _ ask: @escaping @Sendable (ControllerClient) async throws -> Value?
  ) async throws -> Value {
    let deadline = ContinuousClock.now + .seconds(limit.seconds)
    while true {
      if let value = try await ask(self) { return value }
      guard ContinuousClock.now < deadline else { throw LabError.controller("\(what) did not come within \(limit.seconds) s") }
      try await Task.sleep(for: .milliseconds(100))
    }
  }
}

/// Runs what blocks beside the threads of async functions.
func onThread<Value: Sendable>(_ work: @escaping @Sendable () throws -> Value) async throws -> Value {
  try await withCheckedThrowingContinuation { continuation in
    DispatchQueue.global().async { continuation.resume(with: Result { try work() }) }
  }
}
