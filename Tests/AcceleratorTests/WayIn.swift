import Accelerator
import Glibc
import Sockets
import TestSupport
import Vocabulary

/// How an application comes in. With `forward` the entrance knows the target, so the pair is made for it.
enum WayIn: String, CaseIterable, Sendable {
  case connect, socks, forward

  /// What an application is told of the server, in the words of its own protocol.
  enum Answer: Equatable, Sendable {
    case connected, refused, unreachable, unknownHost, timedOut, tunnelLost
    /// A forward has one word for all that goes wrong.
    case reset
    case other(String)
  }

  /// What this way can say where the others say `answer`.
  func word(for answer: Answer) -> Answer {
    switch (self, answer) {
    case (_, .connected), (.connect, _): answer
    case (.forward, _): .reset
    case (.socks, .unknownHost): .unreachable  // RFC 1928 has no other reply for it
    case (.socks, _): answer
    }
  }
}

extension Pair {
  /// A pair with every way in; the forward leads to this place.
  static func with(_ host: String, _ port: UInt16, _ options: Options = Options(), _ body: @escaping @Sendable (Pair) async throws -> Void)
    async throws
  {
    let loopback = Endpoint("127.0.0.1:0")!
    var options = options
    options.entrances.socks = loopback
    options.entrances.forwards = [.init(listen: loopback, target: Location(host: host, port: port))]
    try await with(options, body)
  }

  /// Comes in, and waits for the answer. For `forward`, which has none, "connected" is what nobody can tell yet: `early` has been sent.
  func come(in way: WayIn, to host: String, _ port: UInt16, early: [UInt8] = []) throws -> (socket: Socket, answer: WayIn.Answer) {
    switch way {
    case .connect:
      let (socket, head) = try connect(to: port, host: host, early: early)
      return (socket, WayIn.answer(http: head))
    case .socks:
      let socket = try Socket.connect(places.socks?.port ?? 0)
      let code = try socket.socks(to: host, port)
      if code == 0, !early.isEmpty { try socket.write(early) }
      return (socket, WayIn.answer(socks: code))
    case .forward:
      let socket = try Socket.connect(places.forwards.first?.port ?? 0)
      do { _ = try socket.writeSome(early) } catch let failure as Socket.Failure where failure.code == ECONNRESET || failure.code == EPIPE {
        return (socket, .reset)  // the RST was quicker
      }
      return (socket, .connected)
    }
  }
}

extension WayIn {
  static func answer(http head: String) -> Answer {
    let words: [(String, Answer)] = [
      ("200 ", .connected), ("502 Connection Refused", .refused), ("502 Host Unreachable", .unreachable),
      ("404 Unknown Host", .unknownHost),
      ("504 ", .timedOut), ("502 Tunnel Lost", .tunnelLost),
    ]
    return words.first { head.hasPrefix("HTTP/1.1 \($0.0)") }?.1 ?? .other(head)
  }

  /// RFC 1928 section 6.
  static func answer(socks code: UInt8) -> Answer {
    let codes: [UInt8: Answer] = [0: .connected, 3: .tunnelLost, 4: .unreachable, 5: .refused, 6: .timedOut]
    return codes[code] ?? .other("\(code)")
  }
}
