import Authentication
import Control
import Foundation
import Testing
import Vocabulary

@Suite("The endpoint key")
struct AuthenticationTests {
  static let key = EndpointKey(octets: Array(0..<32))
  static let token = GoToken(
    machine: "vm", epoch: 3, agent: Endpoint("10.2.0.4:7600")!,
    path: .accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a", "b"]), expires: 2_000_000_000)

  static func file(_ text: String) throws -> String {
    let path = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-\(UUID().uuidString)").path
    try text.write(toFile: path, atomically: true, encoding: .utf8)
    return path
  }

  @Test("signs a GO that verifies, and that does not once anything in it has changed")
  func go() {
    let signed = Self.key.sign(Self.token)
    #expect(Self.key.verify(signed))
    #expect(!EndpointKey(octets: Array(1..<33)).verify(signed))
    #expect(!Self.key.verify(Self.token))
    let changes: [(inout GoToken) -> Void] = [
      { $0.machine = "vm2" }, { $0.epoch = 4 }, { $0.agent = Endpoint("10.2.0.5:7600")! }, { $0.path = .direct }, { $0.expires += 1 },
      { $0.path = .accelerated(entrance: Endpoint("10.0.1.3:3128")!, accelerators: ["a\nb"]) }, { $0.mac.removeLast() },
      { $0.mac = String(repeating: "0", count: 64) }, { $0.mac = "" }, { $0.mac = "zz" },
    ]
    for (number, change) in changes.enumerated() {
      var changed = signed
      change(&changed)
      #expect(!Self.key.verify(changed), "change \(number)")
    }
  }

  @Test("derives another key for each use, the same on every node")
  func derivation() {
    let same = EndpointKey(octets: Array(0..<32))
    #expect(same.associationKey == Self.key.associationKey && same.bearerToken == Self.key.bearerToken)
    #expect(same.associationKey != Array(0..<32))
    #expect(Self.key.isBearerToken(Self.key.bearerToken))
    #expect(!Self.key.isBearerToken(Self.key.bearerToken.dropLast()))
    #expect(!Self.key.isBearerToken("x" + Self.key.bearerToken.dropFirst()))
  }

  @Test("reads the line that keygen prints, and says what is wrong with any other")
  func files() throws {
    let good = try Self.file(EndpointKey.newLine() + "\n")
    #expect(throws: Never.self) { try EndpointKey(contentsOf: good) }
    for (text, word) in [
      ("", "fewer"), ("00112233", "fewer"), (String(repeating: "g", count: 64), "not one line"),
      (String(repeating: "a", count: 33), "not one line"),
    ] {
      let path = try Self.file(text)
      #expect { try EndpointKey(contentsOf: path) } throws: {
        "\($0)".contains(word) && "\($0)".contains(path) && "\($0)".contains("keygen")
      }
    }
    #expect { try EndpointKey(contentsOf: "/nonexistent/key") } throws: {
      "\($0)".contains("/nonexistent/key") && "\($0)".contains("cannot be read")
    }
  }

  @Test("a tunnel's proof fits its transcript only")
  func tunnel() {
    let proof = Self.key.tunnelProof(transcript: [1, 2, 3])
    #expect(Self.key.verifyTunnelProof(proof, transcript: [1, 2, 3]))
    #expect(!Self.key.verifyTunnelProof(proof, transcript: [1, 2, 4]))
    #expect(!Self.key.verifyTunnelProof([], transcript: [1, 2, 3]))
  }
}
