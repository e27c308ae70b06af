import NIOCore
import NIOPosix

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// An error of the network in a few words: the system's own, without the call that brought it up.
func describe(_ error: any Error) -> String {
  switch error {
  case let error as IOError: String(cString: strerror(error.errnoCode))
  case let error as NIOConnectionError: error.connectionErrors.first.map { describe($0.error) } ?? "unknown host \(error.host)"
  case ChannelError.connectTimeout(let limit): "no answer within \(limit.nanoseconds / 1_000_000) ms"
  default: "\(error)"
  }
}
