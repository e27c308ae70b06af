import Flows
import Interception
import NIOCore
import Sockets
import Tunnel
import Vocabulary

/// Who may open a flow, and as what.
extension Shard {
  /// Whose the connection at an entrance is, what it is granted, and the client that counts its answer; nil: it has been refused, since there are too many.
  func admit(_ client: any WaitingClient) -> (any WaitingClient, FlowGrant)? {
    let account = ledger.account(of: tenant(of: client))
    let counted = CountedClient(client, account)
    guard let grant = ledger.admit(account.name) else {
      counted.refuse(.tooManyFlows)
      return nil
    }
    ledger.giveBack(grant, after: client.channel)
    return (counted, grant)
  }

  private func tenant(of client: any WaitingClient) -> String {
    ledger.tenant(source: client.channel.remoteAddress?.vocabulary?.address, entrance: client.channel.localAddress?.vocabulary)
  }

  /// - Parameter source: the application's own address, where its target shall see it.
  func request(for target: FlowTarget, from source: Endpoint?, of client: any WaitingClient, _ grant: FlowGrant) -> FlowRequest {
    FlowRequest(target: target, source: source, tenant: grant.account.name, grant: grant)
  }

  /// The class of a flow whose target's address is known by now.
  func priority(of target: Endpoint, _ request: FlowRequest, _ client: any WaitingClient) -> FlowPriority {
    settings.classes.priority(of: target, source: client.channel.remoteAddress?.vocabulary?.address, tenant: request.tenant) ?? .normal
  }
}

/// A waiting client, and a line in the account of its tenant when it is answered.
final class CountedClient: WaitingClient {
  private let client: any WaitingClient
  private let account: TenantAccount
  private var isAnswered = false

  init(_ client: any WaitingClient, _ account: TenantAccount) {
    self.client = client
    self.account = account
  }

  var channel: any Channel { client.channel }

  func startRelaying() { client.startRelaying() }

  func accept() {
    if !isAnswered { account.noteOpened() }
    isAnswered = true
    client.accept()
  }

  func refuse(_ why: FlowRefusal) {
    if !isAnswered { account.noteRefused(why) }
    isAnswered = true
    client.refuse(why)
  }
}
