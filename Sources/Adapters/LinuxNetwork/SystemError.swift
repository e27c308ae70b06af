import Glibc

/// A system call that failed.
package struct SystemError: Error, CustomStringConvertible, Sendable {
  package var what: String
  package var code: Int32
  package var description: String { "\(what): \(String(cString: strerror(code)))" }

  package init(_ what: String, code: Int32 = errno) {
    self.what = what
    self.code = code
  }
}
