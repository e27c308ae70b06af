import Flows
import NIOCore
import NIOPosix

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

extension FlowRefusal {
  /// What a failed dial means to the opener of the flow.
  package init(dialError error: any Error) {
    switch error {
    case let error as NIOConnectionError:
      if let first = error.connectionErrors.first {
        self.init(dialError: first.error)
      } else {
        self = .unknownHost
      }
    case let error as IOError:
      switch error.errnoCode {
      case ECONNREFUSED: self = .connectionRefused
      case EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, EADDRNOTAVAIL: self = .hostUnreachable
      case ETIMEDOUT: self = .timedOut
      case EACCES, EPERM: self = .notAllowed
      default: self = .failed
      }
    case is SocketAddressError: self = .unknownHost
    case let error as ChannelError:
      if case .connectTimeout = error { self = .timedOut } else { self = .failed }
    default: self = .failed
    }
  }
}
