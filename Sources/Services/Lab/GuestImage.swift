import Foundation
import LinuxNetwork
import Vocabulary

/// What a guest boots from: Debian's kernel, and an initramfs with busybox, vsftpd and the agent.
struct GuestImage: Sendable {
  /// In the order in which they are loaded.
  static let modules = [
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "failover", "net_failover", "virtio_net",
    "virtio_blk",
  ]

  let kernel: String
  let initramfs: String

  /// Puts the initramfs together in the run folder.
  ///
  /// - Parameter agentArguments: what `longhaul-agent` is started with.
  init(_ prerequisites: Prerequisites, in folder: RunFolder, keyFile: String, agentArguments: [String]) throws(LabError) {
    kernel = prerequisites.kernel
    initramfs = folder.file("initramfs.cpio")
    do {
      try GuestImage.build(prerequisites, root: folder.file("initramfs"), output: initramfs, keyFile: keyFile, agentArguments)
    } catch {
      throw .partFailed("the guest's initramfs", what: "could not be made: \(error)", log: [])
    }
  }

  private static func build(_ prerequisites: Prerequisites, root: String, output: String, keyFile: String, _ arguments: [String]) throws {
    let manager = FileManager.default
    for folder in ["bin", "dev", "proc", "sys", "etc", "tmp", "run", "m", "srv/ftp", "usr/sbin", "usr/share/empty", "var/run/vsftpd/empty"]
    {
      try manager.createDirectory(atPath: "\(root)/\(folder)", withIntermediateDirectories: true)
    }
    func write(_ text: String, _ path: String, mode: Int = 0o644) throws {
      try Data(text.utf8).write(to: URL(fileURLWithPath: "\(root)/\(path)"))
      try manager.setAttributes([.posixPermissions: mode], ofItemAtPath: "\(root)/\(path)")
    }
    try manager.copyItem(atPath: resolved(prerequisites.path(of: "busybox")), toPath: "\(root)/bin/busybox")
    for module in modules {
      try manager.copyItem(atPath: "\(prerequisites.modules)/\(module).ko", toPath: "\(root)/m/\(module).ko")
    }
    try Shell.run(["strip", "-o", "\(root)/usr/sbin/longhaul-agent", prerequisites.agent])
    try copyWithLibraries(prerequisites.path(of: "vsftpd"), to: "usr/sbin/vsftpd", root: root)
    try manager.copyItem(atPath: keyFile, toPath: "\(root)/etc/longhaul.key")
    try write(GuestImage.vsftpdConfiguration, "etc/vsftpd.conf", mode: 0o600)
    try write("root::0:0:root:/:/bin/sh\nftp:x:100:100:ftp:/srv/ftp:/bin/false\nnobody:x:65534:65534:n:/:/bin/false\n", "etc/passwd")
    try write("root:x:0:\nftp:x:100:\nnogroup:x:65534:\n", "etc/group")
    try write(GuestImage.startScript(modules: modules, agentArguments: arguments), "init", mode: 0o755)
    let files = try Shell.run(["find", root, "-mindepth", "1", "-printf", "%P\\n"])
    let list = files.split(separator: "\n").sorted().joined(separator: "\n") + "\n"
    try Data(list.utf8).write(to: URL(fileURLWithPath: "\(output).list"))
    try Shell.run(["sh", "-c", "cd \"$1\" && exec cpio -o -H newc -R 0:0 --quiet <\"$2.list\" >\"$2\"", "sh", root, output])
    try manager.removeItem(atPath: root)
  }

  /// A program of this machine with the shared libraries that it is linked with, by `ldd`.
  private static func copyWithLibraries(_ program: String, to path: String, root: String) throws {
    let manager = FileManager.default
    try manager.copyItem(atPath: resolved(program), toPath: "\(root)/\(path)")
    for word in try Shell.run(["ldd", program]).split(whereSeparator: \.isWhitespace) where word.hasPrefix("/") {
      let library = String(word)
      let target = root + library
      guard !manager.fileExists(atPath: target) else { continue }
      try manager.createDirectory(atPath: URL(fileURLWithPath: target).deletingLastPathComponent().path, withIntermediateDirectories: true)
      try manager.copyItem(atPath: resolved(library), toPath: target)
    }
  }

  private static func resolved(_ path: String) -> String { URL(fileURLWithPath: path).resolvingSymlinksInPath().path }
}
