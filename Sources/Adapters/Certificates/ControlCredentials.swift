import NIOCore

/// What a node shows to the controller: certificates, both ways, where it has them; else the token that comes from the key that all nodes share.
package enum ControlCredentials: Sendable {
  case token(String)
  case certificates(IdentityKeeper)

  /// Certificates win: a shared key says only that its owner belongs to the installation.
  package init?(token: String?, identity: IdentityKeeper?) {
    if let identity {
      self = .certificates(identity)
    } else if let token {
      self = .token(token)
    } else {
      return nil
    }
  }

  /// The value of the header `Authorization` (RFC 6750 section 2.1); nil where TLS says who we are.
  package var authorization: String? {
    guard case .token(let token) = self else { return nil }
    return "Bearer \(token)"
  }

  /// Puts TLS into a connection to the controller, before anything else is in it.
  package func secure(_ pipeline: ChannelPipeline.SynchronousOperations) throws {
    guard case .certificates(let keeper) = self else { return }
    try keeper.current.secure(pipeline, as: .client, expecting: .controller)
  }
}
