import Authentication
import Certificates
import Control
import Controller
import Foundation
import Hypervisors
import Logging
import Testing
import Vocabulary

/// A controller on loopback with a machine of two places, whose hypervisors the test plays, and fake nodes over real HTTP.
final class ControllerBench: Sendable {
  static let agents: [SiteID: Endpoint] = ["center1": Endpoint("10.1.0.3:7600")!, "center2": Endpoint("10.2.0.4:7600")!]

  let keyFile: String
  let key: EndpointKey
  let source = ScriptedWatcher(site: "center1", guest: .running)
  let destination = ScriptedWatcher(site: "center2", guest: .incoming)
  private let ready = Inbox<Endpoint>()
  let settings: ControllerSettings
  private let makeWatcher: ControllerService.WatcherFactory

  init(change: (inout ControllerSettings) -> Void = { _ in }, hypervisors: [SiteID: QMPAddress]? = nil) throws {
    keyFile = NSTemporaryDirectory() + "lh-\(UUID().uuidString.prefix(8)).key"
    try EndpointKey.newLine().write(toFile: keyFile, atomically: true, encoding: .utf8)
    key = try EndpointKey(contentsOf: keyFile)
    let places = ["center1", "center2"].map { (site: SiteID) in
      ControllerSettings.Place(site: site, agent: Self.agents[site]!, hypervisor: hypervisors?[site] ?? .unix("/nowhere"))
    }
    var settings = ControllerSettings(
      listen: Endpoint("127.0.0.1:0")!, keyFile: keyFile,
      sites: [.init(name: "access"), .init(name: "center1"), .init(name: "center2", probe: Endpoint("10.2.0.9:7")!)],
      machines: [.init(name: "vm", places: places)])
    change(&settings)
    self.settings = settings
    let (source, destination) = (self.source, self.destination)
    if hypervisors != nil {
      makeWatcher = { QMPWatcher(site: $1.site, address: $1.hypervisor, limits: WatchedHypervisor.limits, logger: WatchedHypervisor.quiet) }
    } else {
      makeWatcher = { $1.site == "center1" ? source : destination }
    }
  }

  deinit { try? FileManager.default.removeItem(atPath: keyFile) }

  /// - Parameter credentials: what the client of `body` shows; the key that all share if nothing else is given.
  func run(
    as credentials: ControlCredentials? = nil, logger: Logger = WatchedHypervisor.quiet, _ body: (ControllerClient) async throws -> Void
  ) async throws {
    let service = ControllerService(settings: settings, makeWatcher: makeWatcher, logger: logger)
    let ready = self.ready
    try await during {
      try await service.run { ready.add($0) }
    } _: {
      let endpoint = try await ready.next("the controller")
      try await body(ControllerClient(controller: endpoint, credentials: credentials ?? .token(key.bearerToken)))
    }
  }

  // MARK: A migration, as QEMU tells it

  func beginMigration() {
    destination.say(.migration(.setup))
    source.say(.migration(.setup))
    destination.say(.migration(.active))
    source.say(.migration(.active))
  }

  func stopSource() {
    source.say(.stopped, stamp: 1_700_000_000_000_000)
    source.say(.migration(.completed))
    source.set(guest: .departed)
  }

  func resumeDestination() { destination.say(.resumed, stamp: 1_700_000_000_085_000) }
}

/// A node that registers, listens to its orders and reports.
final class FakeNode: Sendable {
  let description: NodeDescription
  let client: ControllerClient
  let orders = Inbox<NodeOrder>()

  init(_ description: NodeDescription, at client: ControllerClient) {
    self.description = description
    self.client = client
  }

  static func client(_ node: NodeID = "client", site: SiteID? = "access", at controller: ControllerClient) -> FakeNode {
    FakeNode(NodeDescription(node: node, role: .client, site: site, machines: ["vm"]), at: controller)
  }

  static func agent(at controller: ControllerClient) -> FakeNode {
    FakeNode(NodeDescription(node: "agent", role: .agent, machine: "vm"), at: controller)
  }

  static func accelerator(_ node: NodeID, site: SiteID, address: String, tunnel: Bool = false, at controller: ControllerClient) -> FakeNode
  {
    FakeNode(
      NodeDescription(
        node: node, role: .accelerator, site: site, entrance: Endpoint("\(address):3128")!,
        tunnel: tunnel ? Endpoint("\(address):7701")! : nil, probe: Endpoint("\(address):7700")!),
      at: controller)
  }

  func register() async throws {
    let answer = try await client.request(.POST, "/v1/nodes", body: Array(JSONEncoder().encode(description)))
    try #require(answer.status == 204, "\(String(decoding: answer.body, as: UTF8.self))")
  }

  /// Registers and listens, for as long as the body takes.
  func join(_ body: () async throws -> Void) async throws {
    try await register()
    let events = try await client.events("/v1/nodes/\(description.node)/orders")
    let orders = self.orders
    try await during(
      { for try await event in events { orders.add(try JSONDecoder().decode(NodeOrder.self, from: Data(event.utf8))) } }, body)
  }

  func report(_ reports: NodeReport...) async throws {
    let now = Int64(Date().timeIntervalSince1970 * 1e6)
    let timed = reports.map { TimedReport(atMicroseconds: now, report: $0) }
    let answer = try await client.request(.POST, "/v1/nodes/\(description.node)/reports", body: Array(JSONEncoder().encode(timed)))
    try #require(answer.status == 204, "\(String(decoding: answer.body, as: UTF8.self))")
  }

  // MARK: Orders

  var gos: [GoToken] { orders.all.compactMap { if case .go(_, let token) = $0 { token } else { nil } } }

  func nextGo() async throws -> GoToken {
    guard
      case .go(_, let token) = try await orders.next(
        "GO",
        where: {
          if case .go = $0 { true } else { false }
        })
    else { fatalError("another order was taken for GO") }
    return token
  }

  func nextPrepare() async throws -> (agent: Endpoint, path: PathChoice) {
    guard
      case .prepare(_, _, let agent, let path) = try await orders.next(
        "PREPARE",
        where: {
          if case .prepare = $0 { true } else { false }
        })
    else { fatalError("another order was taken for PREPARE") }
    return (agent, path)
  }

  func next(_ what: String, _ fits: @escaping @Sendable (NodeOrder) -> Bool) async throws { try await orders.next(what, where: fits) }
}
