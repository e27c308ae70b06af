import Accelerator
import Flows
import NIOCore
import Relay
import TestSupport
import Testing
import Vocabulary

@Suite("Who may have a flow, and with what window")
struct FlowLedgerTests {
  private func settings(_ change: (inout AcceleratorSettings) -> Void) -> AcceleratorSettings {
    var settings = AcceleratorSettings(node: "a", keyFile: "key")
    change(&settings)
    return settings
  }

  @Test("is bounded for all together and for each tenant, and is had again when a flow has ended")
  func flows() throws {
    let ledger = FlowLedger(
      settings {
        $0.maximumFlows = 3
        $0.tenants = [Tenant(name: "guests", maximumFlows: 1)]
      })
    let guest = try #require(ledger.admit("guests"))
    #expect(ledger.admit("guests") == nil)
    let others = try [#require(ledger.admit("")), #require(ledger.admit("unknown here"))]
    #expect(ledger.admit("") == nil)
    ledger.giveBack(guest)
    ledger.giveBack(try #require(ledger.admit("guests")))
    for grant in others { ledger.giveBack(grant) }
    #expect(ledger.grantedOctets == 0)
    #expect(ledger.accounts.map(\.name) == ["", "guests"])
    #expect(ledger.accounts.allSatisfy { $0.figures.flows == 0 })
  }

  @Test("gives windows out of the memory that is left, none below 256 KiB, and the whole never passes the memory by more than those")
  func windows() throws {
    let ledger = FlowLedger(settings { $0.memory = 64 << 20 })
    var grants: [FlowGrant] = []
    for count in 1...1_000 {
      let grant = try #require(ledger.admit(""))
      #expect((FlowLedger.smallestWindow...(16 << 20)).contains(grant.window))
      #expect(grant.window <= max((64 << 20) / count, FlowLedger.smallestWindow))
      grants.append(grant)
      #expect(ledger.grantedOctets <= 64 << 20 + count * FlowLedger.smallestWindow)
    }
    #expect(grants.first?.window == 16 << 20)
    #expect(grants.last?.window == FlowLedger.smallestWindow)
    for grant in grants { ledger.giveBack(grant) }
    #expect(try #require(ledger.admit("")).window == 16 << 20)
  }

  @Test("changes with the settings, for flows that begin after")
  func change() throws {
    let ledger = FlowLedger(settings { $0.maximumFlows = 1 })
    _ = try #require(ledger.admit(""))
    #expect(ledger.admit("") == nil)
    ledger.apply(settings { $0.tenants = [Tenant(name: "new", maximumFlows: 1)] })
    let grant = try #require(ledger.admit("new"))
    #expect(grant.account.name == "new")
    #expect(ledger.admit("new") == nil)
  }
}

@Suite("A gate in front of sockets")
struct ReadGateTests {
  @Test("lets no more through than its rate, in turn, however many sockets ask")
  func rate() {
    let gate = ReadGate(BitRate(bitsPerSecond: 8_000_000))  // 1 MB/s
    var next = [NIODeadline](repeating: .uptimeNanoseconds(1_000_000_000), count: 5)
    var read = [Int](repeating: 0, count: 5)
    let end = NIODeadline.uptimeNanoseconds(11_000_000_000)
    while let (index, now) = next.enumerated().min(by: { $0.element < $1.element }), now < end {
      read[index] += 100_000
      next[index] = gate.take(100_000, at: now) ?? now
    }
    // 10 s at 1 MB/s, what may come at once, and one read for each.
    #expect((9_900_000...10_700_000).contains(read.reduce(0, +)))
    #expect((read.max() ?? 0) - (read.min() ?? 0) <= 200_000)
  }

  @Test("without a rate is open")
  func open() {
    let gate = ReadGate(nil)
    #expect(gate.take(1 << 30, at: .uptimeNanoseconds(1)) == nil)
    gate.setRate(.megabitsPerSecond(1))
    #expect(gate.take(1 << 20, at: .uptimeNanoseconds(1_000_000_000)) != nil)
    gate.setRate(nil)
    #expect(gate.take(1 << 30, at: .uptimeNanoseconds(1_000_000_001)) == nil)
  }
}

extension Loopback {
  @Suite("Limits")
  struct LimitTests {
    private static let guests = Tenant(name: "guests", prefixes: [IPPrefix("127.0.0.0/8")!], rate: .megabitsPerSecond(16), maximumFlows: 2)

    @Test("of a tenant's flows are answered with 503, and another flow fits in when one has ended", arguments: [true, false])
    func flows(atTheEntrance: Bool) async throws {
      let limit: @Sendable (inout AcceleratorSettings) -> Void = { $0.maximumFlows = 2 }
      var options = Pair.Options()
      if atTheEntrance { options.changeA = limit } else { options.changeB = limit }
      try await Pair.with(options) { pair in
        let (first, firstServer) = try await pair.flow()
        let (second, secondServer) = try await pair.flow()
        let (listener, port) = try Socket.listen()
        #expect(try await onThread { try pair.connect(to: port).head }.hasPrefix("HTTP/1.1 503 "))
        #expect(try await exchange(first, [1], firstServer, [2]).atClient == [2])
        #expect(try await exchange(second, [3], secondServer, [4]).atClient == [4])
        // The sockets close a moment after the last octets.
        let until = ContinuousClock.now + .seconds(10)
        while true {
          let (socket, head) = try await onThread { try pair.connect(to: port) }
          if head.hasPrefix("HTTP/1.1 200 ") {
            let server = try await onThread { try listener.accept() }
            #expect(try await exchange(socket, [5], server, [6]).atServer == [5])
            break
          }
          try #require(ContinuousClock.now < until, "the limit still counts flows that have ended")
          try await Task.sleep(for: .milliseconds(2))
        }
      }
    }

    @Test(
      "of a tenant's rate hold for what it sends, where it comes in, and for what it is sent, where that comes in",
      arguments: [true, false])
    func rate(isUpload: Bool) async throws {
      let limit: @Sendable (inout AcceleratorSettings) -> Void = { $0.tenants = [LimitTests.guests] }
      try await Pair.with(.init(changeA: limit, changeB: limit)) { pair in
        let (client, server) = try await pair.flow()
        let start = ContinuousClock.now
        let bytes = pattern(2_000_000, seed: 1)
        let got = try await exchange(client, isUpload ? bytes : [], server, isUpload ? [] : bytes)
        #expect((isUpload ? got.atServer : got.atClient) == bytes)
        #expect(ContinuousClock.now - start > .milliseconds(500))  // 2 MB x 8 / 16 Mbit/s = 1 s; only the lower half is asserted
      }
    }
  }
}
