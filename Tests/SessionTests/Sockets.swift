import Glibc

/// A blocking TCP socket on loopback, as a plain application has one. Every wait has a limit, so that a test fails instead of hanging.
final class Socket: Sendable {
  let descriptor: Int32

  static let limit = timeval(tv_sec: 20, tv_usec: 0)

  struct Failure: Error, CustomStringConvertible {
    let call: String
    let code: Int32
    var description: String { "\(call): \(String(cString: strerror(code)))" }
  }

  private init(_ descriptor: Int32) {
    self.descriptor = descriptor
    var limit = Socket.limit
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { Glibc.close(descriptor) }

  private static func address(_ port: UInt16) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    return address
  }

  private static func with<R>(_ port: UInt16, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
    var address = address(port)
    return withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
  }

  static func connect(_ port: UInt16) throws -> Socket {
    let socket = Socket(Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
    guard with(port, { Glibc.connect(socket.descriptor, $0, $1) }) == 0 else { throw Failure(call: "connect", code: errno) }
    return socket
  }

  static func listen() throws -> (socket: Socket, port: UInt16) {
    let socket = Socket(Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
    guard with(0, { Glibc.bind(socket.descriptor, $0, $1) }) == 0, Glibc.listen(socket.descriptor, 64) == 0 else {
      throw Failure(call: "listen", code: errno)
    }
    var address = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    _ = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(socket.descriptor, $0, &length) }
    }
    return (socket, UInt16(bigEndian: address.sin_port))
  }

  /// A port where nobody listens.
  static func freePort() throws -> UInt16 { try listen().port }

  func accept() throws -> Socket {
    let descriptor = Glibc.accept(descriptor, nil, nil)
    guard descriptor >= 0 else { throw Failure(call: "accept", code: errno) }
    return Socket(descriptor)
  }

  func write(_ bytes: [UInt8]) throws {
    var sent = 0
    while sent < bytes.count {
      let count = bytes[sent...].withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { throw Failure(call: "send", code: errno) }
      sent += count
    }
  }

  /// Up to `count` octets; empty at the end of the stream.
  func read(atMost count: Int = 65_536) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let got = bytes.withUnsafeMutableBytes { Glibc.recv(descriptor, $0.baseAddress, $0.count, 0) }
    guard got >= 0 else { throw Failure(call: "recv", code: errno) }
    return Array(bytes.prefix(got))
  }

  func read(exactly count: Int) throws -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < count {
      let part = try read(atMost: count - bytes.count)
      guard !part.isEmpty else { throw Failure(call: "end of stream after \(bytes.count) of \(count) octets", code: 0) }
      bytes += part
    }
    return bytes
  }

  func readToEnd() throws -> [UInt8] {
    var bytes: [UInt8] = []
    while true {
      let part = try read()
      if part.isEmpty { return bytes }
      bytes += part
    }
  }

  func endOutput() { shutdown(descriptor, Int32(SHUT_WR)) }

  /// Closes so that the peer sees a RST.
  func reset() {
    var option = linger(l_onoff: 1, l_linger: 0)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
    disconnect()
  }

  /// `deinit` closes; this takes the descriptor's connection away at once by connecting it to nowhere (AF_UNSPEC sends a RST on TCP).
  private func disconnect() {
    var nowhere = sockaddr()
    nowhere.sa_family = sa_family_t(AF_UNSPEC)
    for _ in 0..<10_000 {
      guard Glibc.connect(descriptor, &nowhere, socklen_t(MemoryLayout<sockaddr>.size)) != 0, errno == EBUSY else { return }
      // The kernel refuses while a thread waits in recv or send: wake it.
      shutdown(descriptor, Int32(SHUT_RDWR))
      sched_yield()
    }
  }

  /// SOCKS5 (RFC 1928) CONNECT to a name; returns the reply code, 0 if the far side is connected.
  func socks(to host: String, _ port: UInt16) throws -> UInt8 {
    try write([5, 1, 0])
    guard try read(exactly: 2) == [5, 0] else { throw Failure(call: "SOCKS method", code: 0) }
    try write([5, 1, 0, 3, UInt8(host.utf8.count)] + Array(host.utf8) + [UInt8(port >> 8), UInt8(port & 255)])
    let head = try read(exactly: 4)
    let rest = head[3] == 1 ? 6 : head[3] == 4 ? 18 : Int(try read(exactly: 1)[0]) + 2
    _ = try read(exactly: rest)
    return head[1]
  }
}

/// Runs blocking work on a thread of its own.
func onThread<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
  try await withCheckedThrowingContinuation { continuation in
    let box = Box { continuation.resume(with: Result { try work() }) }
    var thread = pthread_t()
    pthread_create(
      &thread, nil,
      { argument in
        Unmanaged<Box>.fromOpaque(argument!).takeRetainedValue().work()
        return nil
      }, Unmanaged.passRetained(box).toOpaque())
    pthread_detach(thread)
  }
}

private final class Box: Sendable {
  let work: @Sendable () -> Void
  init(_ work: @escaping @Sendable () -> Void) { self.work = work }
}
