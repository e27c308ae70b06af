import Glibc

/// A blocking TCP socket on loopback, as a plain application has one. Every wait has a limit, so that a test fails instead of hanging.
package final class Socket: Sendable {
  package let descriptor: Int32

  package static let limit = timeval(tv_sec: 20, tv_usec: 0)

  package struct Failure: Error, CustomStringConvertible {
    package let call: String
    package let code: Int32

    package init(call: String, code: Int32) {
      self.call = call
      self.code = code
    }

    package var description: String { "\(call): \(String(cString: strerror(code)))" }
  }

  private init(_ descriptor: Int32) {
    self.descriptor = descriptor
    var limit = Socket.limit
    setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
  }

  deinit { Glibc.close(descriptor) }

  private static func address(_ port: UInt16, _ host: UInt32) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = host.bigEndian
    return address
  }

  private static func with<R>(_ port: UInt16, _ host: UInt32, _ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
    var address = address(port, host)
    return withUnsafePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
  }

  /// - Parameter source: the port that it comes from; the kernel's choice if none is given.
  package static func connect(_ port: UInt16, at host: UInt32 = 0x7f00_0001, from source: UInt16? = nil) throws -> Socket {
    let socket = Socket(Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
    if let source {
      // A connection of a moment ago may still hold the port: its end is not this one's affair.
      var yes: Int32 = 1
      setsockopt(socket.descriptor, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
      guard with(source, 0, { Glibc.bind(socket.descriptor, $0, $1) }) == 0 else { throw Failure(call: "bind", code: errno) }
    }
    guard with(port, host, { Glibc.connect(socket.descriptor, $0, $1) }) == 0 else { throw Failure(call: "connect", code: errno) }
    return socket
  }

  /// An end of a connection: an IPv4 address and a port.
  package struct End: Hashable, Sendable {
    package var host: UInt32
    package var port: UInt16

    package init(_ host: UInt32, _ port: UInt16) {
      self.host = host
      self.port = port
    }
  }

  package var local: End { end(getsockname) }
  package var peer: End { end(getpeername) }

  private func end(_ ask: (Int32, UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32) -> End {
    var address = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    _ = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { ask(descriptor, $0, &length) }
    }
    return End(UInt32(bigEndian: address.sin_addr.s_addr), UInt16(bigEndian: address.sin_port))
  }

  /// On every loopback address, or on one (127.0.0.2 is 0x7f00_0002).
  package static func listen(receiveBuffer: Int32? = nil, at host: UInt32 = 0, port: UInt16 = 0, backlog: Int32 = 512) throws -> (
    socket: Socket, port: UInt16
  ) {
    let socket = Socket(Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0))
    if let receiveBuffer { socket.setReceiveBuffer(receiveBuffer) }  // what it accepts inherits it
    guard with(port, host, { Glibc.bind(socket.descriptor, $0, $1) }) == 0, Glibc.listen(socket.descriptor, backlog) == 0 else {
      throw Failure(call: "listen", code: errno)
    }
    return (socket, socket.local.port)
  }

  /// A port where nobody listens.
  package static func freePort() throws -> UInt16 { try listen().port }

  package func accept() throws -> Socket {
    let descriptor = Glibc.accept(descriptor, nil, nil)
    guard descriptor >= 0 else { throw Failure(call: "accept", code: errno) }
    return Socket(descriptor)
  }

  package func write(_ bytes: [UInt8]) throws {
    var sent = 0
    while sent < bytes.count {
      let count = bytes[sent...].withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
      guard count > 0 else { throw Failure(call: "send", code: errno) }
      sent += count
    }
  }

  /// One octet with MSG_OOB, which sets TCP's urgent pointer.
  package func writeUrgent(_ octet: UInt8) throws {
    var octet = octet
    guard Glibc.send(descriptor, &octet, 1, Int32(MSG_NOSIGNAL) | Int32(MSG_OOB)) == 1 else { throw Failure(call: "send", code: errno) }
  }

  /// Up to `count` octets; empty at the end of the stream.
  package func read(atMost count: Int = 65_536) throws -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: count)
    let got = bytes.withUnsafeMutableBytes { Glibc.recv(descriptor, $0.baseAddress, $0.count, 0) }
    guard got >= 0 else { throw Failure(call: "recv", code: errno) }
    if got == count { return bytes }
    return Array(bytes.prefix(got))
  }

  package func read(exactly count: Int) throws -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < count {
      let part = try read(atMost: count - bytes.count)
      guard !part.isEmpty else { throw Failure(call: "end of stream after \(bytes.count) of \(count) octets", code: 0) }
      bytes += part
    }
    return bytes
  }

  package func readToEnd() throws -> [UInt8] {
    var bytes: [UInt8] = []
    while true {
      let part = try read()
      if part.isEmpty { return bytes }
      bytes += part
    }
  }

  /// True if the connection ends with a RST, whatever comes before it.
  package func endsWithReset() throws -> Bool {
    do {
      while try !read().isEmpty {}
      return false
    } catch let failure as Failure where failure.code == ECONNRESET {
      return true
    }
  }

  package func endOutput() { shutdown(descriptor, Int32(SHUT_WR)) }

  /// Closes so that the peer sees a RST.
  package func reset() {
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

  /// Writes without waiting; how many octets the kernel took, 0 when it takes none.
  package func writeSome(_ bytes: [UInt8]) throws -> Int {
    let count = bytes.withUnsafeBytes {
      Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
    }
    if count < 0, errno == EAGAIN { return 0 }
    guard count >= 0 else { throw Failure(call: "send", code: errno) }
    return count
  }

  /// Waits until the kernel takes octets again; false if it has not within `milliseconds`.
  package func waitForRoom(_ milliseconds: Int32) -> Bool {
    var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
    return poll(&entry, 1, milliseconds) > 0
  }

  /// True once writing fails, tried for so long.
  package func writingFails(within limit: Duration) -> Bool {
    let until = ContinuousClock.now + limit
    while ContinuousClock.now < until {
      do { _ = try writeSome([1]) } catch { return true }
      usleep(1_000)
    }
    return false
  }

  /// Octets, an end or an error can be read.
  package var hasInput: Bool {
    var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&entry, 1, 0) > 0
  }

  package func setReceiveBuffer(_ octets: Int32) {
    var octets = octets
    setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &octets, socklen_t(MemoryLayout<Int32>.size))
  }

  /// SOCKS5 (RFC 1928) CONNECT to a name; returns the reply code, 0 if the far side is connected.
  package func socks(to host: String, _ port: UInt16) throws -> UInt8 {
    try write([5, 1, 0])
    guard try read(exactly: 2) == [5, 0] else { throw Failure(call: "SOCKS method", code: 0) }
    try write([5, 1, 0, 3, UInt8(host.utf8.count)] + Array(host.utf8) + [UInt8(port >> 8), UInt8(port & 255)])
    let head = try read(exactly: 4)
    let rest = head[3] == 1 ? 6 : head[3] == 4 ? 18 : Int(try read(exactly: 1)[0]) + 2
    _ = try read(exactly: rest)
    return head[1]
  }

  /// The head of an HTTP answer, up to and with its empty line, read octet by octet so that nothing behind it is taken.
  package func head() throws -> String {
    var bytes: [UInt8] = []
    while !bytes.suffix(4).elementsEqual(Array("\r\n\r\n".utf8)) { bytes += try read(exactly: 1) }
    return String(decoding: bytes, as: UTF8.self)
  }
}

/// Both ends send at once, end their sending, and read to the other's end: what each of them got.
package func exchange(_ client: Socket, _ up: [UInt8], _ server: Socket, _ down: [UInt8]) async throws -> (
  atServer: [UInt8], atClient: [UInt8]
) {
  async let sendingUp: Void = onThread {
    try client.write(up); client.endOutput()
  }
  async let sendingDown: Void = onThread {
    try server.write(down); server.endOutput()
  }
  async let atServer = onThread { try server.readToEnd() }
  async let atClient = onThread { try client.readToEnd() }
  let got = try await (atServer, atClient)
  _ = try await (sendingUp, sendingDown)
  return got
}

/// Runs blocking work on a thread of its own.
package func onThread<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
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
