import Authentication
import Certificates
import Control
import Hummingbird
import NIOCore
import Vocabulary

/// Who asks, before a request reaches the core: with certificates the node that TLS has shown, else whoever has the installation's key.
struct AccessMiddleware: RouterMiddleware {
  typealias Context = API.Context
  private static let scheme = "Bearer "

  let key: EndpointKey?
  let identity: IdentityKeeper?

  func handle(
    _ request: Request, context: Context, next: (Request, Context) async throws -> Response
  ) async throws -> Response {
    var context = context
    if let identity {
      context.asker = .node(try await peer(of: context.channel, identity))
    } else {
      try checkToken(request)
    }
    return try await next(request, context)
  }

  /// The certificate is judged again with each request: it may have expired, or have been revoked, since the connection began.
  private func peer(of channel: any Channel, _ identity: IdentityKeeper) async throws -> NodeName {
    do {
      let peer = try await channel.eventLoop.submit { try channel.pipeline.syncOperations.handler(type: PeerGate.self).peer() }.get()
      return try identity.current.verify(peer.certificate.der, expecting: PeerExpectation([peer.name.role])).name
    } catch let refusal as CertificateError {
      throw APIError(status: .forbidden, line: "\(refusal)")
    }
  }

  private func checkToken(_ request: Request) throws(APIError) {
    guard let key, let header = request.headers[.authorization], header.hasPrefix(AccessMiddleware.scheme),
      key.isBearerToken(header.dropFirst(AccessMiddleware.scheme.count))
    else {
      throw APIError(
        status: .unauthorized,
        line: "the key is missing or another one than the controller's: compare the key files of this node and of the controller")
    }
  }
}

/// Who has sent a request.
enum Asker: Sendable, Hashable {
  /// It has the key that all share, so it may be any node or a person.
  case keyHolder
  case node(NodeName)

  /// A node speaks for itself alone.
  func require(node: NodeID, role: NodeRole? = nil) throws(APIError) {
    guard case .node(let name) = self else { return }
    guard name.name == node.text, role == nil || role?.rawValue == name.role.rawValue else {
      throw APIError(
        status: .forbidden,
        line: "the certificate is that of \(name), which may not speak for \(role.map { "\($0.rawValue)/" } ?? "")\(node)")
    }
  }

  /// What the controller knows is for people.
  func requireReader() throws(APIError) {
    guard case .node(let name) = self, name.role != .operator else { return }
    throw APIError(status: .forbidden, line: "the certificate is that of \(name), and only operators may read this; enrol as operator/NAME")
  }
}
