import Crypto

/// SHA-256 of what comes piece by piece, in hexadecimal.
package struct Digest: Sendable {
  private var hash = SHA256()

  package init() {}

  package mutating func update(_ bytes: [UInt8]) { hash.update(data: bytes) }

  package func finish() -> String {
    hash.finalize().map { octet in
      let text = String(octet, radix: 16)
      return octet < 16 ? "0" + text : text
    }.joined()
  }
}
