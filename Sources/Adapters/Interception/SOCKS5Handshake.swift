import Flows
import NIOCore
import Vocabulary

/// SOCKS5 (RFC 1928), the server's half: no authentication, CONNECT only.
package struct SOCKS5Handshake: ProxyHandshake {
  private enum State {
    case greeting
    case request
    case done
  }

  /// RFC 1928 section 6, the REP field.
  enum Reply: UInt8 {
    case succeeded = 0, generalFailure, notAllowed, networkUnreachable, hostUnreachable, connectionRefused, expired, commandNotSupported,
      addressNotSupported
  }

  private static let version: UInt8 = 5
  private static let noAuthentication: UInt8 = 0
  private static let noAcceptableMethod: UInt8 = 0xff
  private var state = State.greeting

  package init() {}

  package mutating func receive(_ bytes: inout ByteBuffer) -> ProxyHandshakeStep {
    switch state {
    case .greeting: return receiveGreeting(&bytes)
    case .request: return receiveRequest(&bytes)
    case .done: preconditionFailure("the handshake is over")
    }
  }

  /// RFC 1928 section 3: version, number of methods, methods.
  private mutating func receiveGreeting(_ bytes: inout ByteBuffer) -> ProxyHandshakeStep {
    let start = bytes.readerIndex
    guard let version = bytes.getInteger(at: start, as: UInt8.self) else { return .needMore }
    guard version == SOCKS5Handshake.version else {
      return .invalid(answer: ByteBuffer(), reason: "SOCKS version \(version), only 5 is served")
    }
    guard let count = bytes.getInteger(at: start + 1, as: UInt8.self), let methods = bytes.getSlice(at: start + 2, length: Int(count))
    else { return .needMore }
    bytes.moveReaderIndex(forwardBy: 2 + Int(count))
    guard methods.readableBytesView.contains(SOCKS5Handshake.noAuthentication) else {
      return .invalid(
        answer: ByteBuffer(bytes: [SOCKS5Handshake.version, SOCKS5Handshake.noAcceptableMethod]),
        reason: "the client insists on SOCKS authentication")
    }
    state = .request
    return .reply(ByteBuffer(bytes: [SOCKS5Handshake.version, SOCKS5Handshake.noAuthentication]))
  }

  /// RFC 1928 section 4: version, command, reserved, address type, address, port.
  private mutating func receiveRequest(_ bytes: inout ByteBuffer) -> ProxyHandshakeStep {
    var look = bytes
    guard let version = look.readInteger(as: UInt8.self) else { return .needMore }
    guard version == SOCKS5Handshake.version else { return refuse(.generalFailure, "version \(version) in a SOCKS5 request") }
    guard let command = look.readInteger(as: UInt8.self), look.readInteger(as: UInt8.self) != nil,
      let type = look.readInteger(as: UInt8.self)
    else {
      return .needMore
    }
    guard command == 1 else { return refuse(.commandNotSupported, "SOCKS command \(command), only CONNECT is served") }
    let host: String
    switch type {
    case 1:
      guard let address = look.readInteger(as: UInt32.self) else { return .needMore }
      host = IPAddress.v4(address).description
    case 3:
      guard let length = look.readInteger(as: UInt8.self) else { return .needMore }
      guard let name = look.readString(length: Int(length)) else { return .needMore }
      host = name
    case 4:
      guard let high = look.readInteger(as: UInt64.self), let low = look.readInteger(as: UInt64.self) else { return .needMore }
      host = IPAddress.v6(high: high, low: low).description
    default: return refuse(.addressNotSupported, "SOCKS address type \(type)")
    }
    guard let port = look.readInteger(as: UInt16.self) else { return .needMore }
    guard port > 0, FlowTarget.isHost(host) else { return refuse(.generalFailure, "no host or no port in the SOCKS request") }
    bytes = look
    state = .done
    return .target(FlowTarget(host: host, port: port))
  }

  package func acceptance() -> ByteBuffer { SOCKS5Handshake.answer(.succeeded) }

  package func refusal(_ why: FlowRefusal, of target: FlowTarget) -> ByteBuffer? { SOCKS5Handshake.answer(why.socksReply) }

  package func tooSlow() -> ByteBuffer { ByteBuffer() }

  private func refuse(_ reply: Reply, _ reason: String) -> ProxyHandshakeStep {
    .invalid(answer: SOCKS5Handshake.answer(reply), reason: reason)
  }

  /// The bound address is left 0.0.0.0:0: with CONNECT no client has a use for it, and ours would be one of the far side's.
  private static func answer(_ reply: Reply) -> ByteBuffer { ByteBuffer(bytes: [version, reply.rawValue, 0, 1, 0, 0, 0, 0, 0, 0]) }
}

extension FlowRefusal {
  var socksReply: SOCKS5Handshake.Reply {
    switch self {
    case .connectionRefused: return .connectionRefused
    case .hostUnreachable, .unknownHost: return .hostUnreachable
    case .timedOut: return .expired
    case .notAllowed: return .notAllowed
    case .lost: return .networkUnreachable
    case .tooManyFlows, .failed: return .generalFailure
    }
  }
}
