import Flows
import NIOCore

/// `CONNECT host:port HTTP/1.1` (RFC 9110 section 9.3.6), the server's half.
package struct HTTPConnectHandshake: ProxyHandshake {
  package init() {}

  package mutating func receive(_ bytes: inout ByteBuffer) -> ProxyHandshakeStep {
    switch HTTPHead.take(from: &bytes) {
    case .needMore:
      // A TLS hello or an SSH banner is told at once, not after the timeout: every method is a token (RFC 9110 section 5.6.2).
      guard bytes.readableBytesView.first.map(HTTPConnectHandshake.beginsMethod) ?? true else { return invalid("not an HTTP request") }
      return .needMore
    case .tooLong: return invalid("head longer than \(InterceptionLimits.headOctets) octets", status: "431 Request Header Fields Too Large")
    case .malformed: return invalid("malformed head")
    case .line(let line):
      let parts = line.split(separator: " ", omittingEmptySubsequences: false)
      guard parts.count == 3, parts[2].hasPrefix("HTTP/1."), parts[2].utf8.count == 8 else { return invalid("not an HTTP/1 request line") }
      guard parts[0] == "CONNECT" else {
        return invalid("this is a tunnel entrance: only CONNECT is served", status: "405 Method Not Allowed")
      }
      guard let target = FlowTarget(authority: parts[1]) else { return invalid("CONNECT wants host:port") }
      return .target(target)
    }
  }

  package func acceptance() -> ByteBuffer { ByteBuffer(string: "HTTP/1.1 200 Connection Established\r\n\r\n") }

  package func refusal(_ why: FlowRefusal, of target: FlowTarget) -> ByteBuffer? {
    HTTPConnectHandshake.answer(why.httpStatus, body: "\(target): \(why.sentence)")
  }

  package func tooSlow() -> ByteBuffer { HTTPConnectHandshake.answer("408 Request Timeout", body: "no complete CONNECT in time") }

  private static func beginsMethod(_ octet: UInt8) -> Bool { (65...90).contains(octet) || (97...122).contains(octet) }

  private func invalid(_ reason: String, status: String = "400 Bad Request") -> ProxyHandshakeStep {
    .invalid(answer: HTTPConnectHandshake.answer(status, body: reason), reason: reason)
  }

  private static func answer(_ status: String, body: String) -> ByteBuffer {
    ByteBuffer(
      string:
        "HTTP/1.1 \(status)\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: \(body.utf8.count + 1)\r\nConnection: close\r\n\r\n\(body)\n"
    )
  }
}

extension FlowTarget {
  /// `host:port` or `[v6]:port`, as CONNECT wants it; nil for an empty host, one that is longer than 255 octets or holds odd characters, and port 0.
  package init?(authority: some StringProtocol) {
    guard let colon = authority.lastIndex(of: ":"), let port = UInt16(authority[authority.index(after: colon)...]), port > 0 else {
      return nil
    }
    var host = authority[..<colon]
    if host.hasPrefix("["), host.hasSuffix("]") {
      host = host.dropFirst().dropLast()
      guard host.contains(":") else { return nil }
    } else if host.contains(":") {
      return nil
    }
    guard FlowTarget.isHost(host) else { return nil }
    self.init(host: String(host), port: port)
  }

  /// Printable ASCII or UTF-8 of at most 255 octets, without what would end a line or a log entry.
  static func isHost(_ host: some StringProtocol) -> Bool {
    (1...255).contains(host.utf8.count)
      && host.utf8.allSatisfy { $0 > 32 && $0 != 127 && $0 != UInt8(ascii: "/") && $0 != UInt8(ascii: "@") }
  }
}

extension FlowRefusal {
  /// RFC 9110 section 15: 4xx for what the client may not or cannot ask, 502 and 504 for what the far side did.
  var httpStatus: String {
    switch self {
    case .notAllowed: return "403 Forbidden"
    case .unknownHost: return "404 Unknown Host"
    case .connectionRefused: return "502 Connection Refused"
    case .hostUnreachable: return "502 Host Unreachable"
    case .failed: return "502 Connect Failed"
    case .lost: return "502 Tunnel Lost"
    case .tooManyFlows: return "503 Too Many Flows"
    case .timedOut: return "504 Connect Timed Out"
    }
  }

  var sentence: String {
    switch self {
    case .notAllowed: return "this target is not allowed here"
    case .unknownHost: return "unknown host"
    case .connectionRefused: return "the host refused the connection"
    case .hostUnreachable: return "the host or its network is unreachable"
    case .failed: return "the connection failed"
    case .lost: return "the tunnel to the far accelerator is down"
    case .tooManyFlows: return "the far side has as many flows as it allows"
    case .timedOut: return "no answer in time"
    }
  }
}
