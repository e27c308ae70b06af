import Foundation
import LinuxNetwork
import Vocabulary

/// A way from the client to the server that is measured.
package enum AcceleratorWay: String, Codable, Sendable, CaseIterable {
  /// A pair of Longhaul's accelerators as docs/operations/accelerator.md sets them up, their tunnels kept warm.
  case longhaul
  /// The same without codec: TCP acceleration alone.
  case plain = "longhaul-plain"
  /// No relay; endpoints with windows of 64 KB, as the paper's.
  case narrow = "direct64k"
  /// No relay; the kernel's defaults.
  case cubic = "direct-cubic"
  case bbr = "direct-bbr"
  /// Relays at both edges with buffers of 64 MB, and a fresh connection across the WAN for each of the client's.
  case haproxy
  case socat
  case kcptun

  /// Rivals that look at no contents and remember nothing: one content and one pass say all.
  var seesContents: Bool { self == .longhaul || self == .plain }
  /// kcptun compresses, but remembers nothing.
  var isDirect: Bool { self == .narrow || self == .cubic || self == .bbr }
  var control: String { self == .narrow || self == .cubic ? "cubic" : self == .bbr ? "bbr" : "-" }

  /// Debian's programs that it needs.
  package var programs: [(name: String, package: String)] {
    switch self {
    case .haproxy: [("haproxy", "haproxy")]
    case .socat: [("socat", "socat")]
    case .kcptun: [("kcptun-client", "kcptun"), ("kcptun-server", "kcptun")]
    case .longhaul, .plain, .narrow, .cubic, .bbr: []
    }
  }

  /// The first line of what the program calls its version.
  package var version: String? {
    let words: [String]
    switch self {
    case .haproxy: words = ["haproxy", "-v"]
    case .socat: words = ["sh", "-c", "socat -V | sed -n 2p"]
    case .kcptun: words = ["sh", "-c", "kcptun-client --version 2>&1"]
    case .longhaul, .plain, .narrow, .cubic, .bbr: return nil
    }
    return (try? Shell.run(words))?.split(separator: "\n").first.map { String($0).trimmingCharacters(in: .whitespaces) }
  }
}

/// A way that is there: its processes run, and connections can be made.
struct AcceleratorPassage: Sendable {
  var way: AcceleratorWay
  var entry: Endpoint
  /// Asked for by CONNECT.
  var target: Endpoint?
  var client: Namespace?
  var near: [ChildProcess] = []
  var far: [ChildProcess] = []

  func end() { for process in near + far { process.end() } }

  var usage: (near: ProcessUsage, far: ProcessUsage) { (ProcessUsage(of: near.map(\.pid)), ProcessUsage(of: far.map(\.pid))) }

  /// Throws if a process of it has ended.
  func check() throws(LabError) {
    for process in near + far where !process.isRunning {
      throw .partFailed(process.name, what: "ended with status \(process.status ?? -1)", log: process.lastLines)
    }
  }
}
