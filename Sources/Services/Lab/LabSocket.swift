import Foundation
import LinuxNetwork
import Vocabulary

/// Blocking TCP sockets for the applications of an experiment, which run on threads of this process. A socket stays in the network namespace of the thread that made it.
enum LabSocket {
  /// linux/tcp.h.
  private static let congestion: Int32 = 13

  /// Runs the body on a thread of its own, in a namespace if one is named: such a thread does not come back from it.
  static func onThread<Value: Sendable>(in namespace: Namespace?, _ body: @escaping @Sendable () throws -> Value) async throws -> Value {
    try await withCheckedThrowingContinuation { continuation in
      Thread.detachNewThread {
        continuation.resume(
          with: Result {
            if let namespace { try CurrentThread.enter(namespace) }
            return try body()
          })
      }
    }
  }

  static func listen(on endpoint: Endpoint, backlog: Int32 = 1_024) throws -> Int32 {
    let listener = try make()
    set(listener, SOL_SOCKET, SO_REUSEADDR, 1)
    let bound = try withAddress(of: endpoint) { bind(listener, $0, $1) }
    guard bound == 0, Glibc.listen(listener, backlog) == 0 else {
      let error = SystemError("listen on \(endpoint)")
      close(listener)
      throw error
    }
    return listener
  }

  /// The port that the kernel chose.
  static func port(of listener: Int32) -> Int {
    var address = sockaddr_in()
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    _ = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(listener, $0, &length) }
    }
    return Int(UInt16(bigEndian: address.sin_port))
  }

  /// So many consecutive ports of loopback that nobody listens on now; the first of them.
  static func freePorts(_ count: Int) throws -> Int {
    for _ in 0..<100 {
      guard let any = Endpoint("127.0.0.1:0") else { break }
      let first = try listen(on: any)
      defer { close(first) }
      let port = port(of: first)
      let others = (1..<count).map { number -> Int32? in
        Endpoint("127.0.0.1:\(port + number)").flatMap { try? listen(on: $0) }
      }
      for case let other? in others { close(other) }
      if others.allSatisfy({ $0 != nil }) { return port }
    }
    throw LabError.network("there are no \(count) free ports side by side on loopback")
  }

  /// - Parameter limit: for connecting, and for each later read and write.
  static func connect(to endpoint: Endpoint, limit: TimeSpan) throws -> Int32 {
    let connection = try make()
    // SO_SNDTIMEO bounds connect(2), too.
    setLimit(connection, limit)
    set(connection, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
    let code = try withAddress(of: endpoint) { Glibc.connect(connection, $0, $1) }
    guard code == 0 else {
      let error = SystemError("connect to \(endpoint)")
      close(connection)
      throw error
    }
    return connection
  }

  static func setLimit(_ connection: Int32, _ limit: TimeSpan) {
    var time = timeval(tv_sec: Int(limit.nanoseconds / 1_000_000_000), tv_usec: Int(limit.nanoseconds / 1_000 % 1_000_000))
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
      setsockopt(connection, SOL_SOCKET, option, &time, socklen_t(MemoryLayout<timeval>.size))
    }
  }

  /// Of a kernel that does not have it the connection keeps what it had.
  static func setCongestionControl(_ connection: Int32, _ name: String) {
    var characters: [CChar] = Array(name.utf8CString)
    setsockopt(connection, Int32(IPPROTO_TCP), congestion, &characters, socklen_t(name.utf8.count))
  }

  static func set(_ connection: Int32, _ level: Int32, _ option: Int32, _ value: Int32) {
    var value = value
    setsockopt(connection, level, option, &value, socklen_t(MemoryLayout<Int32>.size))
  }

  /// False if the other end is gone, or takes nothing within the limit.
  static func write(_ octets: UnsafeRawBufferPointer, to connection: Int32) -> Bool {
    var done = 0
    while done < octets.count {
      let count = send(connection, octets.baseAddress.map { $0 + done }, octets.count - done, Int32(MSG_NOSIGNAL))
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return false }
      done += count
    }
    return true
  }

  static func write(_ text: String, to connection: Int32) -> Bool { Array(text.utf8).withUnsafeBytes { write($0, to: connection) } }

  /// So many octets, or nil if they do not come.
  static func read(_ connection: Int32, exactly wanted: Int) -> [UInt8]? {
    var octets = [UInt8](repeating: 0, count: wanted)
    var done = 0
    while done < wanted {
      let count = octets.withUnsafeMutableBytes { recv(connection, $0.baseAddress.map { $0 + done }, wanted - done, 0) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return nil }
      done += count
    }
    return octets
  }

  /// Everything up to the mark, which must come within 4 KiB; nil if it does not. One octet at a time, so that nothing behind the mark is taken.
  static func readHead(_ connection: Int32, upTo mark: String) -> String? {
    var octets: [UInt8] = []
    let end = Array(mark.utf8)
    while octets.count < 4_096 {
      var octet: UInt8 = 0
      let count = recv(connection, &octet, 1, 0)
      if count < 0, errno == EINTR { continue }
      guard count == 1 else { return nil }
      octets.append(octet)
      if octets.suffix(end.count).elementsEqual(end) { return String(decoding: octets, as: UTF8.self) }
    }
    return nil
  }

  private static func make() throws(SystemError) -> Int32 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { throw SystemError("open a TCP socket") }
    return descriptor
  }

  private static func withAddress<Value>(
    of endpoint: Endpoint, _ body: (UnsafePointer<sockaddr>, socklen_t) -> Value
  ) throws(LabError) -> Value {
    guard case .v4(let value) = endpoint.address else { throw .network("\(endpoint) is no IPv4 address with a port") }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = endpoint.port.bigEndian
    address.sin_addr.s_addr = value.bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
  }
}
