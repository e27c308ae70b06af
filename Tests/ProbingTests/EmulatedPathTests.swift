import Control
import Foundation
import LinuxNetwork
import Logging
import NIOCore
import NIOPosix
import Probing
import Testing
import Vocabulary
import WANEmulation

/// Whether this process may make network namespaces; tests that need them are skipped without, and say why.
let mayMakeNamespaces: Bool = geteuid() == 0 && FileManager.default.fileExists(atPath: "/dev/net/tun") && Shell.find("ip") != nil

@Suite("Probes of an emulated WAN", .serialized, .enabled(if: mayMakeNamespaces, "needs root and /dev/net/tun, for network namespaces"))
struct EmulatedPathTests {
  /// What a prober finds on a link until `isEnough`; at most twelve trains.
  func probe(rate: Double, roundTrip: Double, until isEnough: ([Double]) -> Bool) async throws -> (roundTrips: [Double], rates: [Double]) {
    let (a, z) = (Namespace("lhprobe-a"), Namespace("lhprobe-z"))
    for host in [a, z] {
      host.delete()
      try host.create()
    }
    defer { for host in [a, z] { host.delete() } }
    let emulator = try WANEmulator([
      LinkSettings(
        name: "test", a: LinkSettings.End(namespace: a.name, device: "wan0"), z: LinkSettings.End(namespace: z.name, device: "wan0"),
        delay: .milliseconds(roundTrip / 2), rate: .megabitsPerSecond(rate), queue: ByteCount(1 << 20), loss: 0, seed: 1)
    ])
    defer { _ = emulator.stop() }
    try a.ip("addr", "add", "10.200.0.1/30", "dev", "wan0")
    try z.ip("addr", "add", "10.200.0.2/30", "dev", "wan0")
    for host in [a, z] { try host.ip("link", "set", "wan0", "up") }
    let groups = [a, z].map { _ in MultiThreadedEventLoopGroup(numberOfThreads: 1) }
    for (group, host) in zip(groups, [a, z]) { try await group.next().submit { try CurrentThread.enter(host) }.get() }
    let responder = try await ProbeResponder.bind(to: Endpoint("10.200.0.2:7900")!, on: groups[1].next(), logger: quiet)
    var limits = ProbeLimits()
    limits.trainInterval = .seconds(2.0)  // longer than the kernel waits before a window counts as idle, and a train begins anew
    let prober = try await Prober(limits: limits, on: groups[0].next())
    try await prober.watch(ProbeTarget("far", responder.endpoint, every: 200))
    var roundTrips: [Double] = []
    var rates: [Double] = []
    while rates.count < 12, !isEnough(rates) {
      // A machine that is busy with other tests may be late with an answer: that is no fault of the prober.
      guard case .measured(_, let roundTrip, let rate) = try await prober.reports.next() else { continue }
      roundTrips.append(roundTrip)
      if let rate { rates.append(rate) }
    }
    try await prober.stop()
    await responder.close()
    for group in groups { try await group.shutdownGracefully() }
    return (roundTrips, rates)
  }

  @Test("the rate of the path is found, near and far, narrow and wide", arguments: [(100.0, 10.0), (10.0, 10.0), (100.0, 300.0)])
  func rate(rate: Double, roundTrip: Double) async throws {
    // Twice within 30 %: a train that a busy machine delays tells too little, but the true rate comes again and again.
    let isRight = { (found: Double) in abs(found - rate) < 0.3 * rate }
    let found = try await probe(rate: rate, roundTrip: roundTrip) { $0.count(where: isRight) >= 2 }
    #expect(found.rates.count(where: isRight) >= 2, "\(found.rates)")
    #expect(try #require(found.roundTrips.min()) >= roundTrip)
  }
}
