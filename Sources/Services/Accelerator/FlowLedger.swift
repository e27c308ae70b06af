import Flows
import NIOCore
import Relay
import Synchronization
import Vocabulary

/// What one flow has been granted when it was admitted; it is given back when the flow's socket here has closed.
package final class FlowGrant: Sendable {
  package let account: TenantAccount
  /// Octets that its receiver here takes in full before it gives CREDIT.
  package let window: Int
  /// The window that the peer is told: what comes as names takes no memory before its turn (`LiteralWindow`).
  var creditWindow: Int { window * LiteralWindow.namesFactor }

  init(account: TenantAccount, window: Int) {
    self.account = account
    self.window = window
  }
}

/// One tenant's flows at this accelerator, or those of nobody in particular.
package final class TenantAccount: Sendable {
  package struct Figures: Sendable {
    package var flows = 0
    package var opened = 0
    package var refused: [FlowRefusal: Int] = [:]
  }

  package let name: String
  /// Holds back the sockets of its flows; open where it has no limit.
  let gate = ReadGate(nil)
  private let state = Mutex(Figures())

  init(_ name: String) { self.name = name }

  package var figures: Figures { state.withLock { $0 } }

  func noteOpened() { state.withLock { $0.opened += 1 } }
  func noteRefused(_ why: FlowRefusal) { state.withLock { $0.refused[why, default: 0] += 1 } }

  /// False: it has as many as it may.
  fileprivate func begin(limit: Int) -> Bool {
    state.withLock { figures in
      guard figures.flows < limit else { return false }
      figures.flows += 1
      return true
    }
  }

  fileprivate func end() { state.withLock { $0.flows -= 1 } }
}

/// Admits flows, over all event loops: within the limit of the accelerator and of their tenant, and with a window out of the memory that is left. Asked when a flow
/// begins and when it ends, never while octets flow.
package final class FlowLedger: Sendable {
  /// Less than this and a flow would wait for each of its CREDITs: 256 KiB fill 20 Mbit/s at 100 ms.
  package static let smallestWindow = 256 << 10

  private struct State {
    var tenants: [String: Tenant] = [:]
    var accounts: [String: TenantAccount] = [:]
    var table = TenantTable([])
    var maximumFlows = Int.max
    var memory = 0
    var window = 0
    var flows = 0
    /// Octets of all windows that are out.
    var granted = 0
  }

  private let state: Mutex<State>

  package init(_ settings: AcceleratorSettings) {
    var state = State()
    state.accounts[""] = TenantAccount("")
    self.state = Mutex(state)
    apply(settings)
  }

  /// For flows that begin from now on; rates count at once. A tenant that is gone keeps its account while the program runs: its figures have been told.
  package func apply(_ settings: AcceleratorSettings) {
    state.withLock { state in
      state.tenants = Dictionary(settings.tenants.map { ($0.name, $0) }) { first, _ in first }
      state.table = TenantTable(settings.tenants)
      state.maximumFlows = settings.maximumFlows ?? .max
      state.memory = settings.memory
      state.window = settings.limits.window
      for tenant in settings.tenants where state.accounts[tenant.name] == nil && state.accounts.count <= Tenant.maximumCount {
        state.accounts[tenant.name] = TenantAccount(tenant.name)
      }
      for (name, account) in state.accounts { account.gate.setRate(state.tenants[name]?.rate) }
    }
  }

  func tenant(source: IPAddress?, entrance: Endpoint?) -> String {
    state.withLock { $0.table.tenant(source: source, entrance: entrance) }
  }

  /// The account of a tenant; of one that is not in the settings here (a peer may name any), that of nobody in particular.
  func account(of tenant: String) -> TenantAccount {
    state.withLock { state in
      guard let account = state.accounts[tenant] ?? state.accounts[""] else { preconditionFailure("the account of nobody is always there") }
      return account
    }
  }

  /// Nil: the accelerator or the tenant has as many flows as it may.
  package func admit(_ tenant: String) -> FlowGrant? {
    state.withLock { state in
      guard state.flows < state.maximumFlows, let account = state.accounts[tenant] ?? state.accounts[""] else { return nil }
      let limit = state.tenants[account.name]?.maximumFlows ?? .max
      guard account.begin(limit: limit) else { return nil }
      state.flows += 1
      // An even share for as many as there are, and never more than half of what is left, so that the whole stays within the memory (but for the
      // smallest windows: 4,096 of them are 1 GiB).
      let share = min(state.window, state.memory / state.flows, (state.memory - state.granted) / 2)
      let window = max(share, min(FlowLedger.smallestWindow, state.window))
      state.granted += window
      return FlowGrant(account: account, window: window)
    }
  }

  package func giveBack(_ grant: FlowGrant) {
    state.withLock { state in
      state.flows -= 1
      state.granted -= grant.window
    }
    grant.account.end()
  }

  /// Gives it back when the channel has closed.
  func giveBack(_ grant: FlowGrant, after channel: any Channel) {
    channel.closeFuture.whenComplete { _ in self.giveBack(grant) }
  }

  package var accounts: [TenantAccount] { state.withLock { $0.accounts.values.sorted { $0.name < $1.name } } }
  package var grantedOctets: Int { state.withLock { $0.granted } }
}
