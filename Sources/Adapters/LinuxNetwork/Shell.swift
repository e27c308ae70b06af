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
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
    process.arguments = command
    let output = Pipe()
    let errors = Pipe()
    process.standardOutput = output
    process.standardError = errors
    if let input {
      let pipe = Pipe()
      process.standardInput = pipe
      try pipe.fileHandleForWriting.write(contentsOf: Data(input.utf8))  // our inputs are smaller than a pipe's 64 KiB
      try pipe.fileHandleForWriting.close()
    } else {
      process.standardInput = FileHandle.nullDevice
    }
    // `waitUntilExit` turns a run loop, and may notice the end many seconds late.
    let ended = DispatchSemaphore(value: 0)
    process.terminationHandler = { _ in ended.signal() }
    try process.run()
    let complaints = Collector(errors.fileHandleForReading)
    let text = output.fileHandleForReading.readDataToEndOfFile()
    ended.wait()
    let complaint = complaints.wait()
    guard process.terminationStatus == 0 else {
      throw CommandError(command: command, status: process.terminationStatus, complaint: complaint)
    }
    return String(decoding: text, as: UTF8.self)
  }

  /// Where a program is, or nil.
  package static func find(_ program: String) -> String? {
    let path = ProcessInfo.processInfo.environment["PATH"] ?? ""
    let folders = path.split(separator: ":").map(String.init) + ["/usr/sbin", "/sbin", "/usr/local/sbin"]
    return folders.map { "\($0)/\(program)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
  }
}

/// Reads a pipe to its end beside another, so that neither fills up.
private final class Collector: Sendable {
  private let done = DispatchSemaphore(value: 0)
  // Written before `signal` and read after `wait`: the semaphore orders the two.
  nonisolated(unsafe) private var text = ""

  init(_ handle: FileHandle) {
    let bound = handle
    DispatchQueue.global().async { [self] in
      text = String(decoding: bound.readDataToEndOfFile(), as: UTF8.self)
      done.signal()
    }
  }

  func wait() -> String {
    done.wait()
    return text
  }
}
