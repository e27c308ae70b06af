import Foundation
import LinuxNetwork
import Vocabulary

/// The NAS: the guest's disk as a network block device that both hypervisors use, with the file to be downloaded on it.
struct NetworkDisk: Sendable {
  static let port = 10_809
  static let fileName = "file.bin"

  let digest: String
  private let server: ChildProcess

  init(_ file: TestFile, _ prerequisites: Prerequisites, folder: RunFolder) async throws {
    let contents = folder.file("disk")
    let image = folder.file("disk.img")
    do {
      try FileManager.default.createDirectory(atPath: contents, withIntermediateDirectories: true)
      digest = try file.write(to: "\(contents)/\(NetworkDisk.fileName)")
      // The file, 4 MiB and 1/16 for the file system's own tables.
      let kibibytes = (file.octets + file.octets / 16) / 1_024 + 4_096
      let mke2fs = prerequisites.path(of: "mke2fs")
      try Shell.run([
        mke2fs, "-q", "-t", "ext4", "-O", "^has_journal,^resize_inode", "-m", "0", "-d", contents, image, "\(kibibytes)k",
      ])
      try FileManager.default.removeItem(atPath: contents)
    } catch {
      throw LabError.partFailed("the disk on the NAS", what: "could not be made: \(error)", log: [])
    }
    let command = [
      prerequisites.path(of: "qemu-nbd"), "-t", "-r", "-e", "8", "-x", "lab", "-f", "raw", "--cache=writeback", "-b", Topology.nasAddress,
      "-p", "\(NetworkDisk.port)", image,
    ]
    server = try ChildProcess("qemu-nbd", Topology.nas.command(command), log: folder.file("qemu-nbd.log"))
    // It says nothing when it listens, so it is asked.
    let deadline = ContinuousClock.now + .seconds(20)
    while (try? Shell.run(Topology.nas.command(["qemu-nbd", "-L", "-b", Topology.nasAddress, "-p", "\(NetworkDisk.port)"]))) == nil {
      guard server.isRunning, ContinuousClock.now < deadline else {
        throw LabError.partFailed("qemu-nbd", what: "does not serve the disk", log: server.lastLines)
      }
      try await Task.sleep(for: .milliseconds(20))
    }
  }
}
