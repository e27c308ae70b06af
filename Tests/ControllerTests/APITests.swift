import Control
import Controller
import Foundation
import NIOHTTP1
import Testing
import Vocabulary

@Suite("The controller's API", .timeLimit(.minutes(1)))
struct APITests {
  private func line(_ answer: ControllerClient.Answer) -> String {
    String(decoding: answer.body, as: UTF8.self).trimmingCharacters(in: .newlines)
  }

  @Test("health needs no key; everything else answers 401 without the right one, and says what to compare")
  func keys() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let stranger = ControllerClient(controller: controller.controller, credentials: .token(String(repeating: "0", count: 64)))
      #expect(try await stranger.request(.GET, "/v1/health").status == 200)
      for (method, path) in [
        (HTTPMethod.POST, "/v1/nodes"), (.GET, "/v1/nodes"), (.GET, "/v1/nodes/client/orders"), (.POST, "/v1/nodes/client/reports"),
        (.GET, "/v1/status"), (.GET, "/v1/migrations"), (.GET, "/v1/paths"), (.GET, "/v1/timeline"), (.GET, "/v1/timeline/events"),
      ] {
        let answer = try await stranger.request(method, path, body: method == .POST ? Array("[]".utf8) : nil)
        #expect(answer.status == 401, "\(method) \(path)")
        #expect(line(answer).contains("compare the key files"))
      }
    }
  }

  @Test("a registration that cannot be is refused with one line that says what is known")
  func registration() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      func post(_ description: NodeDescription) async throws -> String {
        let answer = try await controller.request(.POST, "/v1/nodes", body: Array(JSONEncoder().encode(description)))
        #expect(answer.status == 400)
        return line(answer)
      }
      #expect(
        try await post(NodeDescription(node: "c", role: .client, site: "moon"))
          == "site moon of c is not in the controller's settings; known are access, center1, center2")
      #expect(
        try await post(NodeDescription(node: "x", role: .agent, machine: "other"))
          == "machine other of agent x is not in the controller's settings; known are vm")
      #expect(
        try await post(NodeDescription(node: "x", role: .accelerator)) == "accelerator x does not say at which site it stands (--site)")
      #expect(try await post(NodeDescription(node: "../x", role: .client)).hasPrefix("node: \"../x\" is not a name"))
      let broken = try await controller.request(.POST, "/v1/nodes", body: Array("{\"node\": 7}".utf8))
      #expect(broken.status == 400)
      #expect(line(broken).hasPrefix("the body is not a NodeDescription: "))
      let long = try await controller.request(.POST, "/v1/nodes", body: [UInt8](repeating: 32, count: 70_000))
      #expect(long.status == 413)
    }
  }

  @Test("a node that the controller does not know has to register first")
  func unknown() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      for (method, path) in [(HTTPMethod.GET, "/v1/nodes/ghost/orders"), (.POST, "/v1/nodes/ghost/reports")] {
        let answer = try await controller.request(method, path, body: method == .POST ? Array("[]".utf8) : nil)
        #expect(answer.status == 404)
        #expect(line(answer) == "node ghost is not registered: POST /v1/nodes first")
      }
    }
  }

  @Test("a node that registers again takes over: its earlier stream ends")
  func takeover() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let first = FakeNode.client(at: controller)
      try await first.register()
      let events = try await controller.events("/v1/nodes/client/orders")
      let second = FakeNode.client(at: controller)
      try await second.join {
        // Ends, or fails with a closed connection; it does not go on.
        do { for try await _ in events {} } catch {}
        let nodes: [NodeDocument] = try await controller.get("/v1/nodes")
        #expect(nodes.map(\.description.node) == ["client"])
        #expect(nodes.map(\.isConnected) == [true])
      }
    }
  }

  @Test("status tells where the machine runs and what its hypervisors say")
  func status() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let lines = Inbox<String>()
      let events = try await controller.events("/v1/timeline/events?since=0")
      try await during {
        for try await event in events { lines.add(event) }
      } _: {
        for _ in 0..<2 { try await lines.next("connected") { $0.contains("\"connected\"") } }
      }
      // The answers to the first questions come right behind.
      var status: StatusDocument = try await controller.get("/v1/status")
      for _ in 0..<1_000 where status.machines.first?.places.allSatisfy({ $0.guest != "unknown" }) != true {
        status = try await controller.get("/v1/status")
      }
      #expect(status.machines.first?.home == "center1")
      #expect(status.machines.first?.places.map(\.guest) == ["running", "inmigrate"])
      #expect(status.nodes == 0)
    }
  }

  @Test("a port that is in use is one clear line")
  func busyPort() async throws {
    let bench = try ControllerBench()
    try await bench.run { controller in
      let other = try ControllerBench { $0.listen = controller.controller }
      let service = ControllerService(settings: other.settings, logger: WatchedHypervisor.quiet)
      await #expect(throws: ControllerError.cannotListen(controller.controller, reason: "Address already in use")) {
        try await service.run()
      }
    }
  }

  @Test("a key file that is not there is one clear line")
  func noKey() async throws {
    let bench = try ControllerBench { $0.keyFile = "/nowhere/key" }
    let service = ControllerService(settings: bench.settings, logger: WatchedHypervisor.quiet)
    let error = await #expect(throws: (any Error).self) { try await service.run() }
    #expect("\(error!)".hasPrefix("key file /nowhere/key: cannot be read"))
  }

  @Test("a controller that is not there, and one with another key, are one clear line each for `status`")
  func client() async throws {
    let nobody = ControllerClient(controller: Endpoint("127.0.0.1:1")!, credentials: .token(""))
    let error = await #expect(throws: ControllerClientError.self) { _ = try await nobody.get("/v1/status", as: StatusDocument.self) }
    #expect(error?.description == "controller 127.0.0.1:1 cannot be reached: Connection refused; is `longhaul controller` running there?")
    let bench = try ControllerBench()
    try await bench.run { controller in
      let stranger = ControllerClient(controller: controller.controller, credentials: .token("0"))
      let error = await #expect(throws: ControllerClientError.self) { _ = try await stranger.get("/v1/status", as: StatusDocument.self) }
      #expect(error?.description.contains("refused (401)") == true)
    }
  }
}
