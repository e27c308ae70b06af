import Vocabulary

/// Where a QMP server listens: `unix:/run/vm.qmp` or `tcp:10.0.0.1:4444`, as QEMU's own `-qmp` writes it.
package enum QMPAddress: Sendable, Hashable, CustomStringConvertible {
  case unix(String)
  case tcp(Endpoint)

  package init?(_ text: String) {
    if text.hasPrefix("unix:") {
      let path = text.dropFirst("unix:".count)
      guard !path.isEmpty else { return nil }
      self = .unix(String(path))
    } else if text.hasPrefix("tcp:") {
      guard let endpoint = Endpoint(text.dropFirst("tcp:".count)) else { return nil }
      self = .tcp(endpoint)
    } else {
      return nil
    }
  }

  package var description: String {
    switch self {
    case .unix(let path): "unix:\(path)"
    case .tcp(let endpoint): "tcp:\(endpoint)"
    }
  }
}

/// What can go wrong with a QMP server. Each description is a whole line for a person.
package enum QMPError: Error, Sendable, Hashable, CustomStringConvertible {
  /// Nobody listens there: the process does not run (yet, or any more).
  case absent(QMPAddress, reason: String)
  /// Something may be there, but it could not be reached in time, or we may not.
  case unreachable(QMPAddress, reason: String)
  /// What answered does not speak QMP.
  case notQMP(QMPAddress, reason: String)
  /// The connection is gone, and with it the answer.
  case closed(QMPAddress, reason: String)
  /// The server understood and refused; `kind` is QMP's error class.
  case refused(command: String, kind: String, reason: String)
  /// No answer within the limit. The command may still be carried out.
  case late(command: String, limit: TimeSpan)
  /// More unanswered commands than `QMPConnection.maximumPending`: a fault of ours, or a hypervisor that hangs.
  case busy(command: String)

  package var description: String {
    switch self {
    case .absent(let address, let reason): "no hypervisor listens at \(address): \(reason)"
    case .unreachable(let address, let reason): "hypervisor at \(address) cannot be reached: \(reason)"
    case .notQMP(let address, let reason): "what listens at \(address) does not speak QMP: \(reason)"
    case .closed(let address, let reason): "connection to the hypervisor at \(address) was closed: \(reason)"
    case .refused(let command, let kind, let reason): "hypervisor refused \(command): \(reason) (\(kind))"
    case .late(let command, let limit): "hypervisor did not answer \(command) within \(limit.seconds) s"
    case .busy(let command): "\(command) was not sent: the hypervisor has not answered \(QMPConnection.maximumPending) commands before it"
    }
  }
}
