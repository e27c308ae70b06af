import Foundation
import LinuxNetwork

/// What the lab stands on: root, Debian's programs, a guest's kernel, the agent for the guest.
package struct Prerequisites: Sendable {
  /// Where `scripts/setup` puts the guest's kernel and its modules.
  package static let guestFolder = "/var/cache/longhaul/guest"

  private static let programs: [(name: String, package: String)] = [
    ("ip", "iproute2"), ("sysctl", "procps"), ("ping", "iputils-ping"), ("busybox", "busybox-static"), ("curl", "curl"),
  ]
  private static let programsForGuests: [(name: String, package: String)] = [
    ("qemu-system-x86_64", "qemu-system-x86"), ("qemu-nbd", "qemu-utils"), ("mke2fs", "e2fsprogs"), ("cpio", "cpio"), ("strip", "binutils"),
    ("vsftpd", "vsftpd"),
  ]

  /// `longhaul`, for the nodes outside the guest.
  let program: String
  /// `longhaul-agent`, static.
  let agent: String
  let kernel: String
  let modules: String
  private let found: [String: String]

  /// - Parameter forGuests: whether virtual machines run, or only Longhaul's programs in namespaces.
  init(_ settings: LabSettings, forGuests: Bool = true) throws(LabError) {
    guard geteuid() == 0 else { throw .notRoot }
    var found: [String: String] = [:]
    for (name, package) in Prerequisites.programs + (forGuests ? Prerequisites.programsForGuests : []) {
      guard let path = Shell.find(name) else { throw .missingProgram(name, package: package) }
      found[name] = path
    }
    self.found = found
    program = settings.program ?? Prerequisites.ownPath
    let folder = URL(fileURLWithPath: program).deletingLastPathComponent().path
    agent = settings.agentProgram ?? "\(folder)/longhaul-agent"
    kernel = "\(Prerequisites.guestFolder)/vmlinuz"
    modules = "\(Prerequisites.guestFolder)/modules"
    for path in [program, agent] where !FileManager.default.isExecutableFile(atPath: path) {
      throw .missingFile(path, hint: "build it with `swift build -c release`, or name it with --agent-program")
    }
    for path in [kernel, modules] where forGuests && !FileManager.default.fileExists(atPath: path) {
      throw .missingFile(path, hint: "the guest's kernel comes with scripts/setup (run it as root)")
    }
    guard FileManager.default.fileExists(atPath: "/dev/net/tun") else {
      throw .missingFile("/dev/net/tun", hint: "this kernel, or this container, has no TUN devices")
    }
  }

  /// Only Longhaul's program in namespaces: no agent, no guests.
  init(program: String?) throws(LabError) {
    guard geteuid() == 0 else { throw .notRoot }
    for name in ["ip", "sysctl"] where Shell.find(name) == nil {
      throw .missingProgram(name, package: name == "ip" ? "iproute2" : "procps")
    }
    found = [:]
    self.program = program ?? Prerequisites.ownPath
    (agent, kernel, modules) = ("", "", "")
    guard FileManager.default.isExecutableFile(atPath: self.program) else {
      throw .missingFile(self.program, hint: "build it with `swift build -c release`")
    }
    guard FileManager.default.fileExists(atPath: "/dev/net/tun") else {
      throw .missingFile("/dev/net/tun", hint: "this kernel, or this container, has no TUN devices")
    }
  }

  /// The program that is running.
  static var ownPath: String {
    (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? CommandLine.arguments[0]
  }

  /// Where a program of the list is.
  func path(of name: String) -> String { found[name] ?? name }
}
