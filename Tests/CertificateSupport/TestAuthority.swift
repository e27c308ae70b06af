import Certificates
import Foundation

/// A CA in a folder of its own, and folders with certificates of it.
package final class TestAuthority: Sendable {
  package let folder: String
  package let authority: Authority

  package init() throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-ca-\(UUID().uuidString)").path
    authority = try Authority.create(folder + "/ca")
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  package func node(_ name: String) throws -> String {
    let directory = "\(folder)/\(UUID().uuidString)"
    let (request, key) = try SigningRequest.make(for: NodeName(name)!)
    let certificate = try authority.issue(request)
    try NodeFolder(directory).write(certificate, key: key, roots: [authority.certificate], revocations: try authority.revocations())
    return directory
  }
}
