/// Which installation each session belongs to, so that the session of a client that died is not kept for ten minutes after the client has come back.
///
/// A session is superseded when a later one names the same identity. It is not ended for that alone: only when it has no carrier, or its carrier is silent.
struct SessionRoll {
  /// Of one identity; 16,384 sessions (`SessionAcceptor.maximumSessions`) hold 16 MiB of them. A longer one is none.
  static let maximumOctets = 1_024

  private var latest: [[UInt8]: ObjectIdentifier] = [:]
  private var identities: [ObjectIdentifier: [UInt8]] = [:]

  /// The session that this one supersedes, if there is one.
  mutating func enter(_ session: ObjectIdentifier, as identity: [UInt8]) -> ObjectIdentifier? {
    guard (1...SessionRoll.maximumOctets).contains(identity.count), identities[session] == nil else { return nil }
    identities[session] = identity
    return latest.updateValue(session, forKey: identity)
  }

  mutating func leave(_ session: ObjectIdentifier) {
    guard let identity = identities.removeValue(forKey: session) else { return }
    if latest[identity] == session { latest[identity] = nil }
  }

  func isSuperseded(_ session: ObjectIdentifier) -> Bool {
    guard let identity = identities[session] else { return false }
    return latest[identity] != session
  }
}
