import Accelerator
import CertificateSupport
import Certificates
import Foundation
import Telemetry
import TestSupport
import Testing
import Vocabulary

/// Reads Prometheus' text form strictly: each line is what the form allows, each metric has HELP and TYPE before its samples and stands once.
struct Scrape {
  struct Broken: Error { let line: String }

  var values: [String: Double] = [:]
  var kinds: [String: String] = [:]

  init(_ text: String) throws {
    #expect(text.hasSuffix("\n"))
    var helped: Set<String> = []
    var current = ""
    for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init) {
      if let match = line.wholeMatch(of: /# HELP ([a-z_:][a-z0-9_:]*) [^\n]+/) {
        guard helped.insert(String(match.1)).inserted else { throw Broken(line: line) }
        current = String(match.1)
      } else if let match = line.wholeMatch(of: /# TYPE ([a-z_:][a-z0-9_:]*) (counter|gauge)/) {
        guard match.1 == current, kinds.updateValue(String(match.2), forKey: current) == nil else { throw Broken(line: line) }
        guard (match.2 == "counter") == current.hasSuffix("_total") else { throw Broken(line: line) }
      } else if let match = line.wholeMatch(
        of: /([a-z_:][a-z0-9_:]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\\\|\\"|\\n)*"(?:,(?=[a-z]))?)+\})? (-?[0-9.]+(?:e[+-]?[0-9]+)?)/)
      {
        guard match.1 == current, kinds[current] != nil, let value = Double(match.3) else { throw Broken(line: line) }
        guard values.updateValue(value, forKey: String(match.1) + String(match.2 ?? "")) == nil else { throw Broken(line: line) }
      } else {
        throw Broken(line: line)
      }
    }
  }

  subscript(name: String) -> Double? { values[name] }
}

@Suite("A page of metrics")
struct MetricsPageTests {
  @Test("is Prometheus' text form, with labels of any content")
  func form() throws {
    var page = MetricsPage()
    page.add(MetricName("a_octets_total"), .counter, "One\nline, and a \\.", [.init(1 << 40, ("peer", "q\"\\\n")), .init(0, ("peer", ""))])
    page.add(MetricName("b_seconds"), .gauge, "Another.", [.init(0.25)])
    page.add(MetricName("c_flows"), .gauge, "None.", [])
    #expect(
      page.text == """
        # HELP a_octets_total One\\nline, and a \\\\.
        # TYPE a_octets_total counter
        a_octets_total{peer="q\\"\\\\\\n"} 1099511627776
        a_octets_total{peer=""} 0
        # HELP b_seconds Another.
        # TYPE b_seconds gauge
        b_seconds 0.25

        """)
    #expect(try Scrape(page.text).values.count == 3)
  }
}

extension Loopback {
  @Suite("The figures of an accelerator")
  struct MetricsTests {
    private static let place: @Sendable (inout AcceleratorSettings) -> Void = {
      $0.metrics = Endpoint("127.0.0.1:0")!
      $0.tenants = [Tenant(name: "lab", prefixes: [IPPrefix("127.0.0.0/8")!])]
    }

    private static func scrape(_ place: Endpoint) async throws -> Scrape {
      try Scrape(String(decoding: try await FiguresClient.get("/metrics", at: place), as: UTF8.self))
    }

    @Test("agree with what went through it")
    func counters() async throws {
      try await Pair.with(.init(changeA: Self.place)) { pair in
        let metrics = try #require(pair.places.metrics)
        let before = try await Self.scrape(metrics)
        #expect(before["longhaul_peer_sent_octets_total{peer=\"b\"}"] == 0)
        #expect(before["longhaul_peer_tunnel_connections{peer=\"b\"}"] ?? 0 >= 1)
        let (client, server) = try await pair.flow()
        let (direct, directServer) = try await pair.flow(host: "127.0.0.2")
        _ = try await exchange(direct, pattern(1_000, seed: 3), directServer, pattern(2_000, seed: 4))
        _ = try await onThread { try pair.connect(to: try Socket.freePort()).head }
        #expect(try await exchange(client, text(700_000, seed: 1), server, pattern(300_000, seed: 2)).atServer.count == 700_000)
        try await pair.waitForNoFlows()
        let after = try await Self.scrape(metrics)
        #expect(after["longhaul_peer_sent_octets_total{peer=\"b\"}"] == 700_000)
        #expect(after["longhaul_peer_received_octets_total{peer=\"b\"}"] == 300_000)
        let wire = try #require(after["longhaul_peer_sent_wire_octets_total{peer=\"b\"}"])
        #expect(wire > 0 && wire < 350_000, "text is compressed")
        #expect(try #require(after["longhaul_peer_reduction_ratio{peer=\"b\"}"]) > 0.3)
        #expect(after["longhaul_tenant_opened_flows_total{tenant=\"lab\"}"] == 2)
        #expect(after["longhaul_tenant_refused_flows_total{tenant=\"lab\",reason=\"connectionRefused\"}"] == 1)
        #expect(after["longhaul_passed_flows_total{reason=\"no route\"}"] == 1)
        #expect(after["longhaul_peer_flows{peer=\"b\"}"] == 0)
        #expect(after["longhaul_build_info{version=\"0.1.0\",node=\"a\"}"] == 1)
        #expect(try #require(after["longhaul_resident_memory_octets"]) > 1_048_576)
        #expect(try #require(after["longhaul_open_descriptors"]) > 4)
        #expect(try #require(after["longhaul_uptime_seconds"]) > 0)
      }
    }

    @Test("keep a peer's octets when its connections have ended")
    func afterTheEnd() async throws {
      try await Pair.with(.init(changeA: Self.place)) { pair in
        let (client, server) = try await pair.flow()
        _ = try await exchange(client, pattern(50_000, seed: 1), server, [])
        try await pair.waitForNoFlows()
        try await pair.a.cutTunnels()
        try await pair.waitForConnections(1)
        #expect(try await Self.scrape(try #require(pair.places.metrics))["longhaul_peer_sent_octets_total{peer=\"b\"}"] == 50_000)
      }
    }

    @Test("show each flow, through the tunnel or not")
    func flows() async throws {
      try await Pair.with(.init(changeA: Self.place)) { pair in
        let metrics = try #require(pair.places.metrics)
        let (client, server) = try await pair.flow()
        let (direct, directServer) = try await pair.flow(host: "127.0.0.2")
        try await onThread {
          try client.write(text(200_000, seed: 1))
          _ = try server.read(exactly: 200_000)
          try direct.write([1, 2, 3])
          _ = try directServer.read(exactly: 3)
        }
        let document = try JSONDecoder().decode(FlowsDocument.self, from: Data(try await FiguresClient.get("/flows", at: metrics)))
        #expect(document.node == "a" && document.count == 2)
        let tunnelled = try #require(document.flows.first)
        #expect(tunnelled.peer == "b" && tunnelled.isOpener && tunnelled.tenant == "lab" && tunnelled.class == "normal")
        #expect(tunnelled.target.hasPrefix("127.0.0.1:") && tunnelled.sentOctets == 200_000 && tunnelled.state == "open")
        #expect(try #require(tunnelled.reduction) > 0.3)
        let passed = try #require(document.flows.last)
        #expect(passed.peer == nil && passed.state == "direct" && passed.passed == "no route" && passed.sentOctets == 3)
        _ = try await exchange(client, [], server, [])
        _ = try await exchange(direct, [], directServer, [])
        try await pair.waitForNoFlows()
        #expect(try await pair.a.flows().flows.allSatisfy { $0.peer == nil })
      }
    }

    @Test("are had by GET of few paths, on few connections, and by nothing else")
    func manners() async throws {
      try await Pair.with(.init(changeA: Self.place)) { pair in
        let port = try #require(pair.places.metrics).port
        func ask(_ request: String) async throws -> String {
          try await onThread {
            let socket = try Socket.connect(port)
            try socket.write(Array(request.utf8))
            return String(decoding: try socket.readToEnd(), as: UTF8.self)
          }
        }
        #expect(try await ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").hasSuffix("\r\n\r\nok\n"))
        #expect(try await ask("GET /metrics?x=y HTTP/1.1\r\nHost: x\r\n\r\n").contains("version=0.0.4"))
        let head = try await ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        #expect(head.hasPrefix("HTTP/1.1 200 OK\r\n") && head.hasSuffix("\r\n\r\n"))
        #expect(try await ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").hasPrefix("HTTP/1.1 404 Not Found\r\n"))
        let post = try await ask("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        #expect(post.hasPrefix("HTTP/1.1 405 Method Not Allowed\r\n") && post.contains("Allow: GET"))
        #expect(try await ask("\u{16}\u{3}\u{1} nonsense\r\n\r\n").hasPrefix("HTTP/1.1 400 Bad Request\r\n"))
        // Those that say nothing do not keep others out for ever: beyond the limit a connection is closed at once.
        var silent: [Socket] = []
        for _ in 0..<FiguresServer.maximumConnections { silent.append(try Socket.connect(port)) }
        let refused = try await onThread { () -> Bool in
          let socket = try Socket.connect(port)
          return (try? socket.readToEnd().isEmpty) ?? true
        }
        #expect(refused)
        silent.removeAll()
        let until = ContinuousClock.now + .seconds(10)
        while await (try? ask("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"))?.hasSuffix("ok\n") != true {
          try #require(ContinuousClock.now < until, "connections that have gone are still counted")
        }
      }
    }

    @Test("are told in TLS to operators alone, outside loopback, where the accelerator has certificates")
    func sealed() async throws {
      let ca = try TestAuthority()
      let folders = (a: try ca.node("accelerator/a"), b: try ca.node("accelerator/b"))
      let people = (operator: try NodeIdentity(directory: try ca.node("operator/ann")), agent: try NodeIdentity(directory: folders.b))
      var options = Pair.Options(certificatesOfA: folders.a, certificatesOfB: folders.b)
      options.changeA = { $0.metrics = Endpoint("0.0.0.0:0")! }
      try await Pair.with(options) { pair in
        let place = Endpoint(address: IPAddress("127.0.0.1")!, port: try #require(pair.places.metrics).port)
        func ask(_ identity: NodeIdentity) async throws -> [UInt8] {
          try await FiguresClient.get("/flows", at: place) { channel in
            try identity.secure(channel.pipeline.syncOperations, as: .client, expecting: .accelerator)
          }
        }
        #expect(try JSONDecoder().decode(FlowsDocument.self, from: Data(try await ask(people.operator))).node == "a")
        await #expect(throws: FiguresError.self) { try await ask(people.agent) }
        await #expect(throws: FiguresError.self) { try await FiguresClient.get("/flows", at: place) }
      }
    }

    @Test("say who talks to whom only on loopback, or to operators with certificates")
    func privacy() async throws {
      try await Pair.with(.init(changeA: { $0.metrics = Endpoint("0.0.0.0:0")! })) { pair in
        let place = Endpoint(address: IPAddress("127.0.0.1")!, port: try #require(pair.places.metrics).port)
        let error = await #expect(throws: FiguresError.self) { try await FiguresClient.get("/flows", at: place) }
        #expect(error?.description.contains("refused (403): flows are told on a loopback address") == true)
        _ = try await Self.scrape(place)
      }
    }
  }
}
