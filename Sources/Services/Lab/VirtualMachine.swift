import Foundation
import Hypervisors
import LinuxNetwork
import Vocabulary

/// One QEMU process at one center, and the manager's connection to it. (The controller has a socket of its own.)
final class VirtualMachine: Sendable {
  enum Start: Sendable {
    case boot
    /// Waits for a guest that migrates in.
    case incoming
    /// Goes on with a guest that was saved in this file.
    case saved(String)
  }

  /// QEMU before 9.0 under TCG loses writes of the guest while it migrates when its RAM is a multiple of 256 KiB (upstream commit 03bfc2188f06):
  /// 256 MiB and 8 KiB.
  static let memory = "262152K"
  /// A booting guest is up in 2 to 5 s, under load in 10; a machine that does other things besides may take longer.
  static let bootLimit = TimeSpan.seconds(120 as Int64)
  private static let kernelLine =
    "console=ttyS0 quiet mitigations=off panic=-1 nokaslr no_timer_check tsc=reliable 8250.nr_uarts=1 audit=0 nopti random.trust_cpu=on "
    + "cryptomgr.notests rcupdate.rcu_expedited=1 nowatchdog"

  let site: String
  let process: ChildProcess
  let qmp: QMPConnection

  /// Where the controller listens to this hypervisor.
  static func controllerSocket(_ site: String) -> String { "\(RunFolder.path)/\(site)-watch.qmp" }
  private static func managerSocket(_ site: String) -> String { "\(RunFolder.path)/\(site).qmp" }

  init(
    at site: String, in space: Namespace, image: GuestImage, _ start: Start, usesKVM: Bool, qemu: String, folder: RunFolder,
    onLine: (@Sendable (String) -> Void)? = nil
  ) async throws {
    self.site = site
    let manager = VirtualMachine.managerSocket(site)
    var command = [
      qemu, "-name", "longhaul-lab", "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-m", VirtualMachine.memory,
      "-accel", usesKVM ? "kvm" : "tcg,thread=multi", "-cpu", usesKVM ? "host" : "Nehalem,+rdrand", "-kernel", image.kernel, "-initrd",
      image.initramfs, "-append", VirtualMachine.kernelLine, "-no-reboot", "-serial", "stdio", "-qmp", "unix:\(manager),server=on,wait=off",
      "-qmp", "unix:\(VirtualMachine.controllerSocket(site)),server=on,wait=off", "-netdev",
      "tap,id=n0,ifname=\(Topology.tap),script=no,downscript=no", "-device", "virtio-net-pci,romfile=,netdev=n0,mac=52:54:00:10:01:03",
      "-drive",
      "if=none,id=d0,format=raw,cache=none,readonly=on,file.driver=nbd,file.server.type=inet,file.server.host=\(Topology.nasAddress),"
        + "file.server.port=\(NetworkDisk.port),file.export=lab,file.reconnect-delay=10",
      "-device", "virtio-blk-pci,drive=d0,share-rw=on",
    ]
    switch start {
    case .boot: break
    case .incoming: command += ["-incoming", "defer"]
    case .saved(let path): command += ["-incoming", "exec:cat '\(path)'"]
    }
    let name = "qemu at \(site)"
    process = try ChildProcess(name, space.command(command), log: folder.file("qemu-\(site).log"), onLine: onLine)
    do {
      qmp = try await VirtualMachine.connect(to: manager, of: process)
    } catch {
      process.end()
      throw error
    }
    if case .saved = start { try await resumeSaved() }
  }

  private static func connect(to socket: String, of process: ChildProcess) async throws -> QMPConnection {
    // QEMU makes its sockets before it does anything else, some ten milliseconds after its start.
    let deadline = ContinuousClock.now + .seconds(20)
    while true {
      do {
        return try await QMPConnection.connect(to: .unix(socket))
      } catch {
        guard process.isRunning, ContinuousClock.now < deadline else {
          throw LabError.partFailed(process.name, what: "did not open \(socket): \(error)", log: process.lastLines)
        }
        try await Task.sleep(for: .milliseconds(10))
      }
    }
  }

  /// The state of the guest in QEMU's words.
  func status() async throws -> String { try await qmp.execute("query-status")["status"]?.text ?? "?" }

  private func resumeSaved() async throws {
    let deadline = ContinuousClock.now + .seconds(30)
    while try await status() == "inmigrate" {
      guard ContinuousClock.now < deadline else {
        throw LabError.partFailed(process.name, what: "did not take the saved guest", log: process.lastLines)
      }
      try await Task.sleep(for: .milliseconds(10))
    }
    try await qmp.execute("cont")
  }

  /// Has the guest mount its disk.
  func mountDisk() async throws {
    process.say("mount")
    try await process.waitForLine(GuestImage.mountedLine, unless: GuestImage.failure, limit: VirtualMachine.bootLimit)
  }

  /// Writes the state of the stopped guest to a file, from which `.saved` starts.
  func save(to path: String) async throws {
    try await qmp.execute("stop")
    try await qmp.execute("migrate-set-parameters", .object(["max-bandwidth": .integer(1 << 40)]))
    try await qmp.execute("migrate", .object(["uri": .string("exec:cat > '\(path).new'")]))
    let deadline = ContinuousClock.now + .seconds(60)
    while true {
      let status = try await qmp.execute("query-migrate")["status"]?.text
      if status == "completed" { break }
      guard status != "failed", ContinuousClock.now < deadline else {
        throw LabError.partFailed(process.name, what: "did not save its guest (\(status ?? "no status"))", log: process.lastLines)
      }
      try await Task.sleep(for: .milliseconds(20))
    }
    try FileManager.default.moveItem(atPath: "\(path).new", toPath: path)
  }

  func end() {
    qmp.close()
    process.end()
  }
}
