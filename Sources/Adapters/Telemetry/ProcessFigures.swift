#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// What Linux says of this process.
package struct ProcessFigures: Sendable {
  package var residentOctets = 0
  package var openDescriptors = 0

  /// Reads /proc; what cannot be read stays 0.
  package static func now() -> ProcessFigures {
    var figures = ProcessFigures()
    if let file = fopen("/proc/self/statm", "r") {
      defer { fclose(file) }
      var line = [CChar](repeating: 0, count: 128)
      if fgets(&line, CInt(line.count), file) != nil {
        let fields = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self).split(separator: " ")
        if fields.count > 1, let pages = Int(fields[1]) { figures.residentOctets = pages * Int(sysconf(CInt(_SC_PAGESIZE))) }
      }
    }
    if let folder = opendir("/proc/self/fd") {
      defer { closedir(folder) }
      var count = 0
      while readdir(folder) != nil { count += 1 }
      figures.openDescriptors = max(count - 3, 0)  // `.`, `..` and the folder itself
    }
    return figures
  }
}
