import Certificates
import Foundation

/// X509 has an error of the same name.
typealias Refusal = CertificateError

/// A CA in a folder of its own, and nodes with certificates of it.
final class CertificateBench {
  static let now = Date(timeIntervalSince1970: 1_800_000_000)
  static let day = 86_400.0

  let folder: String
  let authority: Authority

  init(at date: Date = now) throws {
    folder = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-ca-\(UUID().uuidString)").path
    authority = try Authority.create(folder + "/ca", at: date)
  }

  deinit { try? FileManager.default.removeItem(atPath: folder) }

  var roots: [NodeCertificate] { [authority.certificate] }

  /// A node's folder, filled; the CA itself has signed it.
  func node(
    _ name: String, lifetimeSeconds: Double = 90 * day, at date: Date = now, revocations: RevocationList? = nil
  ) throws -> String {
    let directory = "\(folder)/\(UUID().uuidString)"
    let (request, key) = try SigningRequest.make(for: NodeName(name)!)
    let certificate = try authority.issue(request, lifetimeSeconds: lifetimeSeconds, at: date)
    try NodeFolder(directory).write(certificate, key: key, roots: roots, revocations: revocations)
    return directory
  }

  func identity(
    _ name: String, lifetimeSeconds: Double = 90 * day, at date: Date = now, revocations: RevocationList? = nil
  ) throws -> NodeIdentity {
    try NodeIdentity(directory: node(name, lifetimeSeconds: lifetimeSeconds, at: date, revocations: revocations))
  }

  static func mode(_ path: String) throws -> Int {
    try FileManager.default.attributesOfItem(atPath: path)[.posixPermissions] as! Int
  }
}

/// The error's words, or "no error".
func words(_ body: () throws -> Void) -> String {
  do { try body() } catch { return "\(error)" }
  return "no error"
}
