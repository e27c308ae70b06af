import Flows
import Logging
import NIOCore
import NIOPosix
import Relay
import Sockets
import Vocabulary

/// Connects the flows of a session to the services of the machine it runs in.
final class ServiceDialler {
  /// A service on the same machine answers at once or not at all.
  static let timeout = TimeAmount.seconds(10)

  private let loop: any EventLoop
  private let ownNames: Set<String>
  private let addresses: [IPAddress]
  private let budget: DescriptorBudget
  private let logger: Logger

  init(loop: any EventLoop, machine: MachineID, addresses: [IPAddress], budget: DescriptorBudget, logger: Logger) {
    self.budget = budget
    self.loop = loop
    self.logger = logger
    self.addresses = addresses
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
    guard budget.take() else {
      logger.info("flow refused: all \(budget.limit) descriptors are in use", metadata: ["flow.id": "\(flow)"])
      return hub.refuse(flow, .tooManyFlows)
    }
    // A service may listen on loopback, or on one of the machine's addresses only; one that was named is meant.
    let budget = budget
    var candidates = [IPAddress.v4(0x7f00_0001)] + addresses
    if let named = IPAddress(target.host) { candidates = [named] }
    dial(candidates[...], target.port) { result in
      switch result {
      case .success(let channel):
        channel.closeFuture.assumeIsolated().whenComplete { _ in budget.giveBack() }
        hub.accept(flow, with: channel)
      case .failure(let error):
        budget.giveBack()
        hub.refuse(flow, FlowRefusal(dialError: error))
      }
    }
  }

  /// The first address where somebody listens. Another one is tried only where the last refused; its refusal is the answer if all do.
  private func dial(_ candidates: ArraySlice<IPAddress>, _ port: UInt16, then: @escaping (Result<any Channel, any Error>) -> Void) {
    guard let address = candidates.first else { return }
    let connecting = ClientBootstrap(group: loop)
      .connectTimeout(ServiceDialler.timeout)
      .channelOption(.autoRead, value: false)
      .channelOption(.allowRemoteHalfClosure, value: true)
      .channelOption(.maxMessagesPerRead, value: 1)
      .channelOption(.recvAllocator, value: growingReads(upTo: 64 << 10))
      .channelOption(.tcpOption(.tcp_nodelay), value: 1)
      .connect(host: "\(address)", port: Int(port))
    connecting.assumeIsolated().whenComplete { result in
      if case .failure(let error) = result, FlowRefusal(dialError: error) == .connectionRefused, candidates.count > 1 {
        return self.dial(candidates.dropFirst(), port, then: then)
      }
      then(result)
    }
  }
}
