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

/// Where a user says that something answers: an address or a name, and a port.
package struct Location: Sendable, Hashable, CustomStringConvertible {
  package var host: String
  package var port: UInt16

  package init(host: String, port: UInt16) {
    self.host = host
    self.port = port
  }

  package init(_ endpoint: Endpoint) { self.init(host: "\(endpoint.address)", port: endpoint.port) }

  /// Reads `10.1.0.3:7600`, `[2001:db8::1]:7600` and `vm.example.org:7600`.
  package init?(_ text: some StringProtocol) {
    if let endpoint = Endpoint(text) {
      self.init(endpoint)
    } else {
      guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]), port > 0 else { return nil }
      let name = text[..<colon]
      // RFC 1123 section 2.1: letters, digits, hyphens and dots; the underscore is not allowed and used all the same.
      let isName = name.utf8.allSatisfy { octet in
        (48...57).contains(octet) || (65...90).contains(octet) || (97...122).contains(octet) || [45, 46, 95].contains(octet)
      }
      guard (1...253).contains(name.utf8.count), isName, name.contains(where: { $0.isLetter }) else { return nil }
      self.init(host: String(name), port: port)
    }
  }

  package var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

  /// The address behind a name, by the system's resolver, which may take seconds: for a program's start, not for an event loop.
  package func resolved() throws -> Endpoint {
    if let address = IPAddress(host) { return Endpoint(address: address, port: port) }
    guard let endpoint = try SocketAddress.makeAddressResolvingHost(host, port: Int(port)).vocabulary else {
      throw SocketAddressError.unsupported  // neither IPv4 nor IPv6
    }
    return endpoint
  }
}
