import NIOCore
import NIOPosix

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// An error of the network in a few words: the system's own, without the call that brought it up.
package func describe(_ error: any Error) -> String {
  switch error {
  case let error as IOError: String(cString: strerror(error.errnoCode))
  case let error as NIOConnectionError: error.connectionErrors.first.map { describe($0.error) } ?? "unknown host \(error.host)"
  case let error as SocketAddressError.UnknownHost: "unknown host \(error.host)"
  case ChannelError.connectTimeout(let limit): "no answer within \(seconds(limit)) s"
  default: "\(error)"
  }
}

/// 2 for two seconds, 0.25 for a quarter.
private func seconds(_ span: TimeAmount) -> String {
  let value = Double(span.nanoseconds) / 1e9
  return value == value.rounded() ? "\(Int(value))" : "\(value)"
}
