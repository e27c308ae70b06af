import Certificates
import Enrolment
import Testing

@Suite("The name in a certificate")
struct NodeNameTests {
  @Test("is read back from its URI")
  func roundTrip() throws {
    let name = try #require(NodeName(role: .agent, name: "vm1.example_x-2"))
    #expect(name.uri == "longhaul://agent/vm1.example_x-2")
    #expect(NodeName(uri: name.uri) == name)
    #expect(NodeName(name.description) == name)
  }

  @Test(
    "is refused when it is anything else",
    arguments: [
      "", "longhaul://", "longhaul://agent", "longhaul://agent/", "longhaul://agent/a/b", "longhaul://agent/-x", "longhaul://agent/a b",
      "longhaul://agent/a\nb", "longhaul://root/x", "https://agent/x", "longhaul://agent/" + String(repeating: "a", count: 64),
      "longhaul://agent/ä", "LONGHAUL://agent/x",
    ])
  func malformed(_ uri: String) {
    #expect(NodeName(uri: uri) == nil)
  }
}
