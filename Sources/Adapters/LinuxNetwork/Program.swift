import CLinux
import Glibc

/// Starts programs (posix_spawn), and waits for their ends.
///
/// Foundation's Process is not used: with many descriptors open its listing of them was seen to crash, and its `waitUntilExit` to notice an end 20 s late.
package enum Program {
  /// Two ends of a pipe that no other program inherits.
  package static func pipe() throws(SystemError) -> (read: Int32, write: Int32) {
    var ends: [Int32] = [-1, -1]
    guard longhaul_pipe(&ends) == 0 else { throw SystemError("make a pipe") }
    return (ends[0], ends[1])
  }

  /// Starts a program in a process group of its own (so that a terminal's Ctrl-C does not reach it), with the default signals, and with these three descriptors only.
  ///
  /// - Parameter command: the program, by path or by name (`Shell.find`), and its arguments.
  package static func start(_ command: [String], input: Int32, output: Int32, errors: Int32) throws(SystemError) -> pid_t {
    guard let name = command.first, let path = name.contains("/") ? name : Shell.find(name) else {
      throw SystemError("start \(command.first ?? "nothing")", code: ENOENT)
    }
    var arguments: [UnsafeMutablePointer<CChar>?] = command.map { strdup($0) }
    arguments.append(nil)
    defer { for argument in arguments { free(argument) } }
    let pid = longhaul_spawn(path, arguments, [input, output, errors])
    guard pid > 0 else { throw SystemError("start \(path)") }
    return pid
  }

  /// Waits until it has ended, and leaves it for `reap`: until then its pid is no other process's.
  package static func waitForEnd(of pid: pid_t) {
    var information = siginfo_t()
    while waitid(P_PID, id_t(pid), &information, WEXITED | WNOWAIT) < 0, errno == EINTR {}
  }

  /// Takes an ended one away. Its exit status, or 128 + the signal that ended it, as shells have it.
  package static func reap(_ pid: pid_t) -> Int32 {
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 {
      guard errno == EINTR else { return -1 }
    }
    let signal = status & 0x7f
    return signal == 0 ? status >> 8 & 0xff : 128 + signal
  }

  /// What there is, as soon as there is something; nil at the end.
  package static func readSome(_ descriptor: Int32, atMost limit: Int = 65_536) -> [UInt8]? {
    var buffer = [UInt8](repeating: 0, count: limit)
    while true {
      let count = read(descriptor, &buffer, buffer.count)
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { return nil }
      buffer.removeLast(buffer.count - count)
      return buffer
    }
  }
}
