import Flows
import Tunnel
import Vocabulary

/// What an application wants, and who it is, as an entrance has found it out.
struct FlowRequest: Sendable {
  var target: FlowTarget
  /// The application's own address, where the server shall see it.
  var source: Endpoint?
  var tenant = ""
  var priority = FlowPriority.normal
  /// Nil: the usual window, and no limits.
  var grant: FlowGrant?
}
