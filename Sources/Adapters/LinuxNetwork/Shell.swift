import Foundation

/// A program that failed. The description is one line.
package struct CommandError: Error, CustomStringConvertible, Sendable {
  package var command: [String]
  package var status: Int32
  package var complaint: String

  package var description: String {
    let last = complaint.split(separator: "\n").last.map(String.init) ?? "no message"
    return "`\(command.joined(separator: " "))` ended with status \(status): \(last)"
  }
}

/// Runs short programs to their end.
package enum Shell {
  /// What a program printed on standard output.
  ///
  /// - Parameter input: goes to its standard input.
  @discardableResult
  package static func run(_ command: [String], input: String? = nil) throws -> String {
    let output = try Program.pipe()
    let errors = try Program.pipe()
    let source = try Program.pipe()
    defer { for descriptor in [output.read, errors.read] { close(descriptor) } }
    let pid: pid_t
    do {
      defer { for descriptor in [output.write, errors.write, source.read] { close(descriptor) } }
      pid = try Program.start(command, input: source.read, output: output.write, errors: errors.write)
    } catch {
      close(source.write)
      throw error
    }
    if let input {
      let octets = Array(input.utf8)  // ours are smaller than a pipe's 64 KiB
      _ = write(source.write, octets, octets.count)
    }
    close(source.write)
    let (text, complaint) = readBoth(output.read, errors.read)
    let status = Program.reap(pid)
    guard status == 0 else { throw CommandError(command: command, status: status, complaint: complaint) }
    return text
  }

  /// Reads two pipes to their ends side by side, so that neither fills up.
  private static func readBoth(_ a: Int32, _ z: Int32) -> (String, String) {
    var open = [pollfd(fd: a, events: Int16(POLLIN), revents: 0), pollfd(fd: z, events: Int16(POLLIN), revents: 0)]
    var texts: [Int32: [UInt8]] = [a: [], z: []]
    while !open.isEmpty {
      guard poll(&open, nfds_t(open.count), -1) > 0 || errno == EINTR else { break }
      for entry in open where entry.revents != 0 {
        if let part = Program.readSome(entry.fd) { texts[entry.fd]? += part } else { open.removeAll { $0.fd == entry.fd } }
      }
    }
    return (String(decoding: texts[a] ?? [], as: UTF8.self), String(decoding: texts[z] ?? [], as: UTF8.self))
  }

  /// Where a program is, or nil.
  package static func find(_ program: String) -> String? {
    let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
    let folders = path.split(separator: ":").map(String.init) + ["/usr/sbin", "/sbin", "/usr/local/sbin"]
    return folders.map { "\($0)/\(program)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
  }
}
