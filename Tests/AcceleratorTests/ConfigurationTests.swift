import Accelerator
import Flows
import Foundation
import SettingsFiles
import Testing
import Vocabulary

@Suite("The configuration of an accelerator")
struct ConfigurationTests {
  static let whole = """
    node: a
    site: access
    keyFile: longhaul.key
    entrance: 10.1.0.5:3128
    socks: 10.1.0.5:1080
    forwards: ["10.1.0.5:8080=www.example:80"]
    transparent: 127.0.0.1:3129
    keepSource: true
    bypass: refuse
    directCongestion: bbr
    tunnel: 10.1.0.5:7700
    probe: 10.1.0.5:7701
    metrics: 127.0.0.1:9470
    controller: 10.0.0.1:7600
    peers:
      - {name: b, tunnel: "10.2.0.5:7700"}
    routes:
      - {prefix: 10.2.0.0/24, peer: b}
    rateLimitMbps: 96
    connections: 8
    loops: 2
    compression: false
    drainSeconds: 2.5
    limits: {flows: 5000, memoryMiB: 512}
    tenants:
      - {name: guests, prefixes: [10.1.7.0/24, 10.1.8.1], rateMbps: 20, flows: 100}
      - {name: backup, entrances: "10.1.0.5:3129"}
    classes:
      - {class: bulk, tenants: backup}
      - {class: interactive, ports: [22, 5000-5100], targets: [10.2.0.0/16], sources: [10.1.0.0/16]}
    weights: {interactive: 12, bulk: 2}
    """

  private func read(_ yaml: String, flags: AcceleratorDraft = AcceleratorDraft()) throws -> AcceleratorSettings {
    try flags.or(try AcceleratorDraft(yaml: yaml, file: "a.yaml", folder: "/etc/longhaul/")).settings()
  }

  @Test("says in its file all that options say, and tenants, classes and limits")
  func file() throws {
    let settings = try read(Self.whole)
    #expect(settings.node == "a" && settings.site == "access" && settings.keyFile == "/etc/longhaul/longhaul.key")
    #expect(settings.entrance == Endpoint("10.1.0.5:3128") && settings.tunnel == Endpoint("10.1.0.5:7700"))
    var entrances = EntranceSettings(socks: Endpoint("10.1.0.5:1080")!, forwards: [.init("10.1.0.5:8080=www.example:80")!])
    entrances.transparent = Endpoint("127.0.0.1:3129")
    entrances.keepsSource = true
    entrances.bypass = .refuse
    entrances.congestion = .bbr
    #expect(settings.entrances == entrances)
    #expect(settings.probe == Endpoint("10.1.0.5:7701") && settings.metrics == Endpoint("127.0.0.1:9470"))
    #expect(settings.controller == Endpoint("10.0.0.1:7600"))
    #expect(settings.peers == [.init("b=10.2.0.5:7700")!] && settings.routes == [.init("10.2.0.0/24=b")!])
    #expect(settings.rateLimit == .megabitsPerSecond(96) && settings.connectionsPerPeer == 8 && settings.loops == 2)
    #expect(!settings.compresses && settings.drain == .milliseconds(2_500 as Int64))
    #expect(settings.weights == FlowScheduler.Weights(interactive: 12, normal: 3, bulk: 2))
    #expect(settings.maximumFlows == 5_000 && settings.memory == 512 << 20)
    #expect(
      settings.tenants == [
        Tenant(
          name: "guests", prefixes: [IPPrefix("10.1.7.0/24")!, IPPrefix("10.1.8.1")!], rate: .megabitsPerSecond(20), maximumFlows: 100),
        Tenant(name: "backup", entrances: [Endpoint("10.1.0.5:3129")!]),
      ])
    #expect(
      settings.classes.rules == [
        FlowRule(.bulk, tenants: ["backup"]),
        FlowRule(
          .interactive, ports: [22...22, 5_000...5_100], targets: [IPPrefix("10.2.0.0/16")!], sources: [IPPrefix("10.1.0.0/16")!]),
      ])
  }

  @Test("takes an option before the environment, and that before the file")
  func precedence() throws {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-\(UUID().uuidString).yaml").path
    try "node: file\nkeyFile: k\nentrance: 1.1.1.1:1\ntunnel: 1.1.1.1:2\nconnections: 2\n".write(
      toFile: path, atomically: true, encoding: .utf8)
    defer { try? FileManager.default.removeItem(atPath: path) }
    var flags = AcceleratorDraft()
    flags.node = "flag"
    let environment = [
      "LONGHAUL_NODE": "environment", "LONGHAUL_ENTRANCE": "2.2.2.2:1", "LONGHAUL_PEERS": "b=10.2.0.5:7700 c=10.3.0.5:7700",
      "LONGHAUL_ROUTES": "10.2.0.0/24=b", "LONGHAUL_CONFIG": path, "LONGHAUL_TUNNEL": "",
    ]
    let settings = try AcceleratorSource(flags: flags, environment: environment, file: nil).read()
    #expect(settings.node == "flag")
    #expect(settings.entrance == Endpoint("2.2.2.2:1"))
    #expect(settings.tunnel == Endpoint("1.1.1.1:2") && settings.connectionsPerPeer == 2)
    #expect(settings.peers.map(\.node) == ["b", "c"] && settings.routes.count == 1)
  }

  @Test("is refused in one line that says where, what and what is expected")
  func errors() {
    let base = "node: a\nkeyFile: k\nentrance: 1.1.1.1:1\n"
    for (line, problem) in [
      ("tunel: 1.1.1.1:2", "settings a.yaml:4: tunel: no such key; known here are node, "),
      ("tunnel: here", "settings a.yaml:4: tunnel: \"here\" is not ADDRESS:PORT, for instance 10.0.0.1:7700"),
      ("connections: 65", "settings a.yaml:4: connections: \"65\" is not a number from 1 to 64"),
      ("rateLimitMbps: fast", "settings a.yaml:4: rateLimitMbps: \"fast\" is not a number from 0.1 to 1000000.0"),
      ("compression: no thanks", "settings a.yaml:4: compression: \"no thanks\" is not true or false"),
      ("peers: [{name: b}]", "settings a.yaml:4: peers[0].tunnel: missing; expected ADDRESS:PORT"),
      (
        "peers: [{name: b, tunnel: \"1.1.1.1:2\"}, {name: b, tunnel: \"1.1.1.1:2\"}]",
        "settings a.yaml:4: peers[1].name: peer b is listed twice"
      ),
      ("routes: [{prefix: 10.0.0.0/33, peer: b}]", "settings a.yaml:4: routes[0].prefix: \"10.0.0.0/33\" is not a prefix"),
      ("routes: [{prefix: 10.0.0.0/8, peer: b}]", "accelerator: --route 10.0.0.0/8=b names the peer b, which no --peer gives"),
      ("limits: {flows: 0}", "settings a.yaml:4: limits.flows: \"0\" is not a number from 1 to 1000000"),
      ("tenants: [{name: \(String(repeating: "x", count: 33))}]", "settings a.yaml:4: tenants[0].name: "),
      ("tenants: [{name: a, prefixes: [10.0.0.0/99]}]", "settings a.yaml:4: tenants[0].prefixes: \"10.0.0.0/99\" is not a prefix"),
      ("weights: {bulk: 0}", "settings a.yaml:4: weights.bulk: \"0\" is not a number from 1 to 1000"),
      ("classes: [{class: fast}]", "settings a.yaml:4: classes[0].class: \"fast\" is not one of interactive, normal, bulk"),
      ("classes: [{class: bulk, ports: 9-3}]", "settings a.yaml:4: classes[0].ports: \"9-3\" is not a port or a range as 5000-5100"),
      ("classes: [{class: bulk, tenants: [x]}]", "settings a.yaml:4: classes[0].tenants: \"x\" is not the name of a tenant above"),
      ("classes: [{class: bulk, ports: {a: b}}]", "settings a.yaml:4: classes[0].ports: expected a list, each a port"),
    ] {
      do {
        _ = try read(base + line)
        Issue.record("taken: \(line)")
      } catch {
        #expect("\(error)".hasPrefix(problem), "\(line)")
        #expect(!"\(error)".contains("\n"))
      }
    }
    #expect(throws: AcceleratorError.noName) { try read("keyFile: k\nentrance: 1.1.1.1:1") }
    #expect(throws: AcceleratorError.noProof) { try read("node: a\nentrance: 1.1.1.1:1") }
    let wrong = #expect(throws: SettingsError.self) { try AcceleratorDraft(environment: ["LONGHAUL_TUNNEL": "there"]) }
    #expect(wrong?.description.hasPrefix("settings of the environment: LONGHAUL_TUNNEL: \"there\" is not ADDRESS:PORT") == true)
  }
}

@Suite("Whose a connection is")
struct TenantTests {
  private let table = TenantTable([
    Tenant(name: "campus", prefixes: [IPPrefix("10.1.0.0/16")!]), Tenant(name: "guests", prefixes: [IPPrefix("10.1.7.0/24")!]),
    Tenant(name: "backup", entrances: [Endpoint("0.0.0.0:3129")!]),
  ])

  @Test("is said by the longest prefix that covers its source, then by its entrance, then by nobody")
  func lookup() {
    #expect(table.tenant(source: IPAddress("10.1.7.9"), entrance: Endpoint("10.1.0.5:3129")) == "guests")
    #expect(table.tenant(source: IPAddress("10.1.8.9"), entrance: nil) == "campus")
    #expect(table.tenant(source: IPAddress("10.9.8.9"), entrance: Endpoint("10.1.0.5:3129")) == "backup")
    #expect(table.tenant(source: IPAddress("10.9.8.9"), entrance: Endpoint("10.1.0.5:3128")) == "")
    #expect(table.tenant(source: nil, entrance: nil) == "")
  }
}

@Suite("The class of a flow")
struct ClassifierTests {
  private let classifier = FlowClassifier([
    FlowRule(.bulk, ports: [873...873, 5_000...5_100]), FlowRule(.interactive, targets: [IPPrefix("10.2.0.0/16")!], tenants: ["ward"]),
    FlowRule(.bulk, sources: [IPPrefix("10.1.7.0/24")!]), FlowRule(.normal, tenants: ["guests"]),
  ])

  private func priority(_ target: String, from source: String? = nil, _ tenant: String = "") -> String {
    classifier.priority(of: Endpoint(target)!, source: source.flatMap { IPAddress($0) }, tenant: tenant).map { "\($0)" } ?? "by pace"
  }

  @Test("is that of the first rule of which every kind matches")
  func rules() {
    #expect(priority("10.2.0.1:873", "ward") == "bulk")
    #expect(priority("10.2.0.1:5050") == "bulk")
    #expect(priority("10.2.0.1:5101") == "by pace")
    #expect(priority("10.2.9.1:443", "ward") == "interactive")
    #expect(priority("10.3.9.1:443", "ward") == "by pace")
    #expect(priority("10.3.9.1:443", from: "10.1.7.1") == "bulk")
    #expect(priority("10.3.9.1:443", from: "10.1.8.1", "guests") == "normal")
    #expect(priority("10.3.9.1:443", from: "10.1.7.1", "guests") == "bulk")
  }

  private func priority(_ target: String, _ tenant: String) -> String { priority(target, from: nil, tenant) }

  @Test("is interactive, where no rule speaks, until it has moved more than 256 KiB within a second, and never again")
  func pace() {
    var slow = FlowPace()
    for second in 0..<100 { slow.note(FlowPace.octets, at: .zero + .seconds(Int64(second))) }
    #expect(slow.priority == .interactive)
    var fast = FlowPace()
    fast.note(FlowPace.octets, at: .zero)
    #expect(fast.priority == .interactive)
    fast.note(1, at: .zero + .milliseconds(999 as Int64))
    #expect(fast.priority == .normal)
    fast.note(1, at: .zero + .seconds(Int64(60)))
    #expect(fast.priority == .normal)
  }
}
