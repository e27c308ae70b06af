import Foundation
import LinuxNetwork
import Testing
import Vocabulary
import WANEmulation

/// Whether this process may make network namespaces; tests that need them are skipped without, and say why.
let mayMakeNamespaces: Bool = geteuid() == 0 && FileManager.default.fileExists(atPath: "/dev/net/tun") && Shell.find("ip") != nil

extension WholeMachine {
  @Suite("The emulated WAN", .serialized, .enabled(if: mayMakeNamespaces, "needs root and /dev/net/tun, for network namespaces"))
  struct EmulatorTests {
    /// Two hosts with one link between them.
    func withLink<Result>(
      delay: TimeSpan, rate: Double = 0, queue: Int = 1 << 20, loss: Double = 0, seed: UInt64 = 1,
      _ body: (Namespace, Namespace) throws -> Result
    ) throws -> (Result, LinkReport) {
      // Named apart from the lab's own, which a run of the lab removes.
      let a = Namespace("lhtest-a")
      let z = Namespace("lhtest-z")
      for host in [a, z] {
        host.delete()
        try host.create()
      }
      defer { for host in [a, z] { host.delete() } }
      let emulator = try WANEmulator([
        LinkSettings(
          name: "test", a: LinkSettings.End(namespace: a.name, device: "wan0"), z: LinkSettings.End(namespace: z.name, device: "wan0"),
          delay: delay, rate: .megabitsPerSecond(rate), queue: ByteCount(queue), loss: loss, seed: seed)
      ])
      do {
        try a.ip("addr", "add", "10.200.0.1/30", "dev", "wan0")
        try z.ip("addr", "add", "10.200.0.2/30", "dev", "wan0")
        for host in [a, z] { try host.ip("link", "set", "wan0", "up") }
        let result = try body(a, z)
        return (result, try #require(emulator.stop().first))
      } catch {
        _ = emulator.stop()
        throw error
      }
    }

    /// Round trips in milliseconds.
    func ping(_ a: Namespace, count: Int) -> [Double] {
      let text = (try? Shell.run(a.command(["ping", "-n", "-c", "\(count)", "-i", "0.02", "-W", "2", "10.200.0.2"]))) ?? ""
      return text.split(separator: "\n").compactMap { line in
        line.firstRange(of: "time=").flatMap { Double(line[$0.upperBound...].prefix { $0 != " " }) }
      }
    }

    @Test("a round trip is never shorter than twice the delay, and usually close to it", arguments: [0, 20, 100] as [Int64])
    func delay(milliseconds: Int64) throws {
      let (times, _) = try withLink(delay: .milliseconds(milliseconds) / 2) { a, _ in ping(a, count: 20) }
      #expect(times.count == 20)
      let least = try #require(times.min())
      #expect(least >= Double(milliseconds))
      // The machine may be busy; the best of twenty is not.
      #expect(least < Double(milliseconds) + 20)
    }

    @Test("losses follow the rate that was asked for")
    func loss() throws {
      let (times, report) = try withLink(delay: .zero, loss: 0.5, seed: 11) { a, _ in ping(a, count: 100) }
      // A quarter of the pings and answers get through both ways: 25 of 100, and 5 standard deviations of 4.3 either way.
      #expect((4...46).contains(times.count))
      #expect(report.aToZ.droppedByLoss > 20)
      #expect(report.aToZ.droppedByQueue == 0)
    }

    @Test("octets that are more than the rate wait, and what the queue does not hold is dropped")
    func queue() throws {
      // 20 packets of 1,028 octets at once, at 1 Mbit/s: 8.2 ms each, and room for four of them.
      let (_, report) = try withLink(delay: .zero, rate: 1, queue: 4_500) { a, _ in
        _ = try? Shell.run(a.command(["ping", "-n", "-q", "-c", "20", "-l", "20", "-s", "1000", "-W", "1", "10.200.0.2"]))
      }
      #expect(report.aToZ.droppedByQueue > 0)
      #expect(report.aToZ.packets >= 4)
      #expect(report.aToZ.packets + report.aToZ.droppedByQueue >= 20)
    }
  }
}
