import CLinux
import Glibc

/// Tells one thread something once. Its octet goes through a pipe, so that it can be waited for beside other descriptors. (Closing an end would not do as a sign: a process that
/// was started in between holds a copy.)
package final class Bell: Sendable {
  private let ends: (read: Int32, write: Int32)

  package init() throws(SystemError) {
    var ends: [Int32] = [-1, -1]
    guard longhaul_pipe(&ends) == 0 else { throw SystemError("make a pipe") }
    self.ends = (ends[0], ends[1])
  }

  deinit {
    close(ends.read)
    close(ends.write)
  }

  /// Readable once it has rung.
  package var descriptor: Int32 { ends.read }

  package func ring() {
    var octet: UInt8 = 1
    while write(ends.write, &octet, 1) < 0, errno == EINTR {}
  }

  /// Waits for it; it stays rung for nobody else.
  package func wait() {
    var octet: UInt8 = 0
    while read(ends.read, &octet, 1) < 0, errno == EINTR {}
  }
}
