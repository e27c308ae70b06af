#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// Why a folder cannot be used. Each description is one line for a person.
package enum ChunkStoreError: Error, CustomStringConvertible {
  case folder(path: String, doing: String, why: String)
  case inUse(path: String)
  /// It is written by another version of the program.
  case format(path: String, found: String)
  case foreign(path: String, file: String)

  package var description: String {
    switch self {
    case .folder(let path, let doing, let why):
      "the byte cache's folder \(path): cannot \(doing): \(why); give a folder that this user may write"
    case .inUse(let path): "the byte cache's folder \(path) is in use by another process; give each accelerator a folder of its own"
    case .format(let path, let found):
      "the byte cache's folder \(path) says \"\(found)\" where this program reads \"\(StoreFolder.format)\"; give another folder, or delete this one"
    case .foreign(let path, let file):
      "the byte cache's folder \(path) has other things in it (\(file)) and no byte cache; give a folder that is empty or does not exist"
    }
  }

  static var systemWords: String { String(cString: strerror(errno)) }
}
