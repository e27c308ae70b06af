import Control

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// A GO as JSON, for the ways that do not lead through the controller's orders. Its signature says whether it is one.
extension GoToken {
  package var octets: [UInt8] {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    guard let data = try? encoder.encode(self) else { preconditionFailure("a token is always JSON") }
    return Array(data)
  }

  package init?(octets: [UInt8]) {
    guard let token = try? JSONDecoder().decode(GoToken.self, from: Data(octets)) else { return nil }
    self = token
  }
}
