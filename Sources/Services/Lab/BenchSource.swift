import Foundation
import LinuxNetwork
import Vocabulary

/// The service in the bench's machine: it writes numbered blocks (`TestFile`) to whoever connects, a little every tick, so that a pause at the other end shows to the tick.
package struct BenchSource: Sendable {
  /// Longer than any run: a petabyte.
  static func file(_ seed: UInt64) -> TestFile { TestFile(octets: 1 << 50, seed: seed) }
  /// More would be no bench.
  private static let maximumConnections = 64

  private let rate: BitRate
  private let tick: TimeSpan
  private let seed: UInt64

  /// MPTCP instead of TCP (RFC 8684; IPPROTO_MPTCP in linux/in.h).
  static let multipath: Int32 = 262
  private let isMultipath: Bool

  package init(rate: BitRate, tick: TimeSpan, seed: UInt64, isMultipath: Bool = false) {
    self.isMultipath = isMultipath
    self.rate = rate
    self.tick = tick
    self.seed = seed
  }

  /// Listens and serves until the process ends; says `source ready` first.
  package func run(on endpoint: Endpoint) throws(LabError) {
    guard case .v4(let value) = endpoint.address else { throw .badSetting("--listen", "must be an IPv4 address with a port") }
    let listener = socket(
      AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), isMultipath ? BenchSource.multipath : 0)
    var yes: Int32 = 1
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, socklen_t(MemoryLayout<Int32>.size))
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = endpoint.port.bigEndian
    address.sin_addr.s_addr = value.bigEndian
    let bound = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
    guard listener >= 0, bound == 0, listen(listener, 16) == 0 else { throw .network(SystemError("listen on \(endpoint)").description) }
    FileHandle.standardError.write(Data("source ready\n".utf8))
    var connections = 0
    while connections < BenchSource.maximumConnections {
      let connection = accept(listener, nil, nil)
      guard connection >= 0 else { continue }
      connections += 1
      setsockopt(connection, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
      Thread.detachNewThread { [self] in
        pour(into: connection)
        close(connection)
      }
    }
    while true { sleep(3_600) }
  }

  /// Until the other end is gone. A source that was late (stopped with its machine, or not read from) does not make up for it: a guest's clock stands still, too.
  private func pour(into connection: Int32) {
    let file = BenchSource.file(seed)
    let interval = Duration.nanoseconds(tick.nanoseconds)
    let octetsPerTick = rate.bitsPerSecond / 8 * tick.seconds
    var owed = 0.0
    var number = 0
    var pending: [UInt8] = []
    var next = ContinuousClock.now
    while true {
      owed += octetsPerTick
      while pending.count < Int(owed) {
        pending += file.block(number)
        number += 1
      }
      let count = Int(owed)
      owed -= Double(count)
      guard write(all: pending.prefix(count), to: connection) else { return }
      pending.removeFirst(count)
      next += interval
      let now = ContinuousClock.now
      if now < next { pause(until: next, from: now) } else { next = now }
    }
  }

  private func pause(until next: ContinuousClock.Instant, from now: ContinuousClock.Instant) {
    let span = next - now
    var time = timespec(tv_sec: Int(span.components.seconds), tv_nsec: Int(span.components.attoseconds / 1_000_000_000))
    nanosleep(&time, nil)
  }

  private func write(all octets: ArraySlice<UInt8>, to connection: Int32) -> Bool {
    octets.withUnsafeBytes { raw in
      var done = 0
      while done < raw.count {
        let count = send(connection, raw.baseAddress.map { $0 + done }, raw.count - done, Int32(MSG_NOSIGNAL))
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return false }
        done += count
      }
      return true
    }
  }
}
