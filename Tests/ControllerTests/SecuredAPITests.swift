import CertificateSupport
import Certificates
import Control
import Controller
import Foundation
import NIOHTTP1
import TestSupport
import Testing
import Vocabulary

@Suite("The API of a controller with certificates", .timeLimit(.minutes(1)))
struct SecuredAPITests {
  static func keeper(_ folder: String) throws -> ControlCredentials { .certificates(try IdentityKeeper(directory: folder)) }

  /// A controller with certificates and no shared key.
  static func bench(_ authority: TestAuthority) throws -> ControllerBench {
    let folder = try authority.node("controller/main")
    return try ControllerBench(change: {
      $0.keyFile = nil
      $0.certificates = folder
    })
  }

  @Test("a node registers under the name of its certificate, and under no other")
  func registration() async throws {
    let authority = try TestAuthority()
    try await Self.bench(authority).run(as: Self.keeper(try authority.node("client/laptop"))) { controller in
      func post(_ description: NodeDescription) async throws -> ControllerClient.Answer {
        try await controller.request(.POST, "/v1/nodes", body: Array(JSONEncoder().encode(description)))
      }
      #expect(try await post(NodeDescription(node: "laptop", role: .client, site: "access", machines: ["vm"])).status == 204)
      for description in [
        NodeDescription(node: "other", role: .client, site: "access", machines: ["vm"]),
        NodeDescription(node: "laptop", role: .accelerator, site: "access"),
      ] {
        let answer = try await post(description)
        #expect(answer.status == 403)
        #expect(String(decoding: answer.body, as: UTF8.self).contains("client/laptop"))
      }
      #expect(try await controller.request(.GET, "/v1/nodes/other/orders").status == 403)
      #expect(try await controller.request(.POST, "/v1/nodes/other/reports", body: Array("[]".utf8)).status == 403)
    }
  }

  @Test("an operator reads what the controller knows; a node does not")
  func reading() async throws {
    let authority = try TestAuthority()
    for (name, status) in [("operator/ann", 200), ("client/laptop", 403)] {
      try await Self.bench(authority).run(as: Self.keeper(try authority.node(name))) { controller in
        for path in ["/v1/status", "/v1/nodes", "/v1/paths", "/v1/migrations", "/v1/timeline"] {
          let answer = try await controller.request(.GET, path)
          #expect(answer.status == status, "\(name) \(path)")
        }
      }
    }
  }

  @Test("who has no certificate, or one of another CA, gets nowhere, and the log says why")
  func strangers() async throws {
    let authority = try TestAuthority()
    let other = try TestAuthority()
    let lines = LogLines()
    try await Self.bench(authority).run(as: Self.keeper(try other.node("operator/eve")), logger: lines.logger()) { controller in
      await #expect(throws: ControllerClientError.self) { try await controller.request(.GET, "/v1/health") }
      let plain = ControllerClient(controller: controller.controller, credentials: .token("0"))
      await #expect(throws: ControllerClientError.self) { try await plain.request(.GET, "/v1/health") }
    }
    #expect(lines.all.filter { $0.contains("connection refused") }.count >= 2, "\(lines.all)")
    #expect(lines.has("does not speak TLS") || lines.has("speaks HTTP where TLS is expected"), "\(lines.all)")
    withExtendedLifetime(other) {}
  }

  @Test("a controller does not begin with the certificate of another node")
  func falseController() async throws {
    let authority = try TestAuthority()
    let folder = try authority.node("client/evil")
    let settings = try ControllerBench(change: {
      $0.keyFile = nil
      $0.certificates = folder
    }).settings
    await #expect {
      try await ControllerService(settings: settings, logger: WatchedHypervisor.quiet).run()
    } throws: {
      "\($0)".contains("client/evil") && "\($0)".contains("controllers only")
    }
  }
}
