import Crypto

/// Where a node keeps its certificate and key. Replacing both is two renames, and a machine may stop between them: the new key waits beside the old one
/// under a name of its own until the certificate has changed, and a reader takes whichever of the two fits.
package struct NodeFolder: Sendable {
  private static let nextKey = "node.key.next"
  /// Taken by who writes: a timer's renewal and a program's own may meet.
  private static let lock = "lock"

  package let directory: String

  package init(_ directory: String) { self.directory = directory }

  private func path(_ file: String) -> String { "\(directory)/\(file)" }

  /// Writes all that makes a node. `overwrite`: replaces what is there, as a renewal does.
  package func write(
    _ certificate: NodeCertificate, key: NodeKey, roots: [NodeCertificate], revocations: RevocationList?, overwrite: Bool = false
  ) throws(CertificateError) {
    guard certificate.publicKey?.rawRepresentation == key.key.publicKey.rawRepresentation else {
      throw .otherKey(key: path(NodeIdentity.File.key), certificate: path(NodeIdentity.File.certificate))
    }
    try PrivateFiles.makeFolder(directory)
    try PrivateFiles.locked(path(NodeFolder.lock)) { () throws(CertificateError) in
      try requireRoom(overwrite: overwrite)
      try PrivateFiles.write((key.key.pemRepresentation + "\n").utf8, to: path(NodeFolder.nextKey), mode: PrivateFiles.privateMode)
      try PrivateFiles.write(roots.map(\.pem).joined().utf8, to: path(NodeIdentity.File.authority), mode: PrivateFiles.publicMode)
      if let revocations { try put(revocations) }
      try PrivateFiles.write(certificate.pem.utf8, to: path(NodeIdentity.File.certificate), mode: PrivateFiles.publicMode)
      try PrivateFiles.move(path(NodeFolder.nextKey), to: path(NodeIdentity.File.key))
    }
  }

  package func write(_ revocations: RevocationList) throws(CertificateError) {
    try PrivateFiles.locked(path(NodeFolder.lock)) { () throws(CertificateError) in try put(revocations) }
  }

  private func put(_ revocations: RevocationList) throws(CertificateError) {
    try PrivateFiles.write(revocations.pem.utf8, to: path(NodeIdentity.File.revocations), mode: PrivateFiles.publicMode)
  }

  /// Asked before a token is spent.
  package func requireRoom(overwrite: Bool) throws(CertificateError) {
    guard !overwrite else { return }
    for file in [NodeIdentity.File.key, NodeIdentity.File.certificate] where PrivateFiles.exists(path(file)) {
      throw .exists(path: path(file))
    }
  }

  package func readCertificate() throws(CertificateError) -> NodeCertificate {
    let path = path(NodeIdentity.File.certificate)
    guard let certificate = try NodeCertificate.all(contentsOf: path).first else {
      throw .content(path: path, why: "no certificate in PEM")
    }
    return certificate
  }

  package func readRoots() throws(CertificateError) -> [NodeCertificate] {
    try NodeCertificate.all(contentsOf: path(NodeIdentity.File.authority))
  }

  /// Nil if there is none.
  package func readRevocations() throws(CertificateError) -> RevocationList? {
    let path = path(NodeIdentity.File.revocations)
    return PrivateFiles.exists(path) ? try RevocationList(contentsOf: path) : nil
  }

  /// The key of this certificate.
  func readKey(of certificate: NodeCertificate) throws(CertificateError) -> P256.Signing.PrivateKey {
    let wanted = certificate.publicKey?.rawRepresentation
    let next = path(NodeFolder.nextKey)
    if PrivateFiles.exists(next) {
      let key = try PrivateFiles.readKey(next)
      if key.publicKey.rawRepresentation == wanted { return key }
    }
    let key = try PrivateFiles.readKey(path(NodeIdentity.File.key))
    guard key.publicKey.rawRepresentation == wanted else {
      throw .otherKey(key: path(NodeIdentity.File.key), certificate: path(NodeIdentity.File.certificate))
    }
    return key
  }

  /// Changes when any of the files does.
  var stamps: [FileStamp?] {
    [NodeIdentity.File.authority, NodeIdentity.File.certificate, NodeIdentity.File.key, NodeIdentity.File.revocations].map {
      PrivateFiles.stamp(path($0))
    }
  }
}
