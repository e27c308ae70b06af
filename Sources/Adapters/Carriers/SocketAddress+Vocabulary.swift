import NIOCore
import Vocabulary

extension SocketAddress {
  /// The address and port in our own types; nil for a unix socket.
  package var vocabulary: Endpoint? {
    guard let text = ipAddress, let port, let address = IPAddress(text.prefix { $0 != "%" }) else { return nil }
    return Endpoint(address: address, port: UInt16(port))
  }

  package init(_ endpoint: Endpoint) throws { try self.init(ipAddress: "\(endpoint.address)", port: Int(endpoint.port)) }
}
