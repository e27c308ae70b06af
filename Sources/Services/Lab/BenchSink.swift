import Foundation
import LinuxNetwork
import Vocabulary

/// An application that reads a source over Linux's own MPTCP and prints what comes: what `nc` is for Longhaul's stream.
package struct BenchSink: Sendable {
  package init() {}

  /// Until the other end is gone.
  package func run(from endpoint: Endpoint) throws(LabError) {
    guard case .v4(let value) = endpoint.address else { throw .badSetting("--connect", "must be an IPv4 address with a port") }
    let connection = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), BenchSource.multipath)
    guard connection >= 0 else { throw .network(SystemError("open an MPTCP socket (net.mptcp.enabled)").description) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = endpoint.port.bigEndian
    address.sin_addr.s_addr = value.bigEndian
    let connected = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(connection, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) }
    }
    guard connected == 0 else { throw .network(SystemError("connect to \(endpoint)").description) }
    while let octets = Program.readSome(connection, atMost: 256 << 10) { FileHandle.standardOutput.write(Data(octets)) }
  }
}
