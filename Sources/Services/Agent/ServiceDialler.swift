import Flows
import Logging
import NIOCore
import NIOPosix
import Relay
import Vocabulary

/// Connects the flows of a session to the services of the machine it runs in.
final class ServiceDialler {
  /// A service on the same machine answers at once or not at all.
  static let timeout = TimeAmount.seconds(10)

  private let loop: any EventLoop
  private let ownNames: Set<String>
  private let logger: Logger

  init(loop: any EventLoop, machine: MachineID, addresses: [IPAddress], logger: Logger) {
    self.loop = loop
    self.logger = logger
    ownNames = Set(["localhost", "::1", machine.text.lowercased()] + addresses.map(\.description))
  }

  /// A machine's services are reached by its name, its addresses, or a loopback address; everything else would make it an open relay.
  private func isOwn(_ host: String) -> Bool {
    if ownNames.contains(host.lowercased()) { return true }
    if case .v4(let value)? = IPAddress(host) { return value >> 24 == 127 }
    return false
  }

  func dial(_ target: FlowTarget, flow: FlowID, hub: FlowHub) {
    guard isOwn(target.host) else {
      logger.info("flow refused: \(target.host) is not this machine", metadata: ["flow.id": "\(flow)"])
      return hub.refuse(flow, .notAllowed)
    }
    let connecting = ClientBootstrap(group: loop)
      .connectTimeout(ServiceDialler.timeout)
      .channelOption(.autoRead, value: false)
      .channelOption(.allowRemoteHalfClosure, value: true)
      .channelOption(.maxMessagesPerRead, value: 1)
      .channelOption(.recvAllocator, value: FixedSizeRecvByteBufferAllocator(capacity: 64 << 10))
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .connect(host: "127.0.0.1", port: Int(target.port))
    connecting.assumeIsolated().whenComplete { result in
      switch result {
      case .success(let channel): hub.accept(flow, with: channel)
      case .failure(let error): hub.refuse(flow, FlowRefusal(dialError: error))
      }
    }
  }
}
