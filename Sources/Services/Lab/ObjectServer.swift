import Foundation
import LinuxNetwork
import Synchronization
import Vocabulary

/// The service behind the accelerators: it gives out objects that it holds in memory, on threads of this process.
///
/// A request is one line, `GET number control`; the answer is the object, and the end of the connection. `PING` is answered octet for octet, `TAKE` reads nothing.
package final class ObjectServer: Sendable {
  /// Threads are cheap, and an experiment has few connections at a time.
  private static let limit = TimeSpan.seconds(120 as Int64)
  /// What is sent in one call.
  private static let piece = 1 << 20

  package let endpoint: Endpoint
  private let listener: Int32
  private let objects = Mutex<[Int: BenchObject]>([:])

  package init(on endpoint: Endpoint, in namespace: Namespace?) async throws {
    let listener = try await LabSocket.onThread(in: namespace) { try LabSocket.listen(on: endpoint) }
    self.listener = listener
    self.endpoint = Endpoint(address: endpoint.address, port: UInt16(LabSocket.port(of: listener)))
    Thread.detachNewThread { [self] in serve() }
  }

  func put(_ object: BenchObject, as number: Int) { objects.withLock { $0[number] = object } }
  func remove(_ number: Int) { objects.withLock { $0[number] = nil } }

  /// No more connections; those that there are come to their end by themselves.
  package func stop() { shutdown(listener, Int32(SHUT_RDWR)) }

  private func serve() {
    while true {
      let connection = accept(listener, nil, nil)
      if connection < 0, errno == EINTR || errno == ECONNABORTED { continue }
      guard connection >= 0 else { break }
      Thread.detachNewThread { [self] in
        LabSocket.setLimit(connection, ObjectServer.limit)
        LabSocket.set(connection, Int32(IPPROTO_TCP), TCP_NODELAY, 1)
        answer(connection)
        close(connection)
      }
    }
    close(listener)
  }

  private func answer(_ connection: Int32) {
    guard let line = LabSocket.readHead(connection, upTo: "\n") else { return }
    let words = line.split(whereSeparator: \.isWhitespace).map(String.init)
    switch words.first {
    case "GET":
      guard words.count == 3, let number = Int(words[1]), let object = objects.withLock({ $0[number] }) else { return }
      if words[2] != "-" { LabSocket.setCongestionControl(connection, words[2]) }
      give(object, to: connection)
    case "PING":
      var buffer = [UInt8](repeating: 0, count: 4_096)
      while true {
        let count = recv(connection, &buffer, buffer.count, 0)
        if count < 0, errno == EINTR { continue }
        guard count > 0, buffer.withUnsafeBytes({ LabSocket.write(UnsafeRawBufferPointer(rebasing: $0[..<count]), to: connection) }) else {
          return
        }
      }
    case "TAKE":  // until the other end is gone, which only an error tells one who does not read
      var entry = pollfd(fd: connection, events: 0, revents: 0)
      _ = poll(&entry, 1, Int32(ObjectServer.limit.milliseconds))
    default: return
    }
  }

  private func give(_ object: BenchObject, to connection: Int32) {
    object.octets.withUnsafeBytes { raw in
      var offset = 0
      while offset < raw.count {
        let end = min(offset + ObjectServer.piece, raw.count)
        guard LabSocket.write(UnsafeRawBufferPointer(rebasing: raw[offset..<end]), to: connection) else { return }
        offset = end
      }
    }
    shutdown(connection, Int32(SHUT_WR))
    // The end of the other side, so that closing is not a RST for what is still under way.
    var octet: UInt8 = 0
    _ = recv(connection, &octet, 1, 0)
  }
}
