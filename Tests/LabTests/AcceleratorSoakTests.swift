import Foundation
import Lab
import Testing
import Vocabulary

extension WholeMachine {
  /// Real programs on loopback.
  @Suite("The soak of a pair of accelerators", .serialized, .enabled(if: program != nil, "needs LONGHAUL_PROGRAM"))
  struct AcceleratorSoakTests {
    @Test(
      "no octet is wrong, none is missing without a RST, and nothing is left open, though an accelerator is killed", .timeLimit(.minutes(2))
    )
    func soak() async throws {
      var settings = AcceleratorSoak.Settings()
      settings.program = program
      settings.flows = 60
      settings.length = .seconds(27 as Int64)
      settings.killEvery = .seconds(15 as Int64)
      settings.longestPauses = .seconds(2 as Int64)
      let result = try await AcceleratorSoak(settings, isQuiet: true).run()
      #expect(result.allFaults.isEmpty, "\(result.report)")
      #expect(result.kills == 1 && result.mostAtATime == 60)
      #expect((result.endings["client: whole"] ?? 0) > 60 && (result.endings["server: whole"] ?? 0) > 60)
      // What was open when a was killed.
      #expect((result.endings["client: reset"] ?? 0) > 0)
      #expect(result.lives.count == 3)
    }

    @Test("what cannot be is refused, in words")
    func refused() {
      var settings = AcceleratorSoak.Settings()
      settings.killEvery = .seconds(1 as Int64)
      #expect {
        try settings.check()
      } throws: {
        "\($0)".contains("--kill-every must be 0")
      }
    }
  }

  @Suite("The accelerator bench on loopback", .serialized, .enabled(if: program != nil, "needs LONGHAUL_PROGRAM"))
  struct AcceleratorLocalTests {
    @Test("every way carries all octets, pings come back, and a stopped receiver holds its sender up", .timeLimit(.minutes(2)))
    func local() async throws {
      var settings = AcceleratorBenchSettings()
      settings.program = program
      settings.contents = [.random, .text]
      settings.ways = [.longhaul, .plain, .cubic]
      settings.repeats = 1
      let result = try await AcceleratorLocalBench(octets: 4 << 20, settings, isQuiet: true).run()
      #expect(result.faults.isEmpty && result.leftOut.isEmpty, "\(result.report)")
      // Two contents, by three ways, and by one of them a second time.
      #expect(result.rows.count == 8)
      #expect(result.rows.allSatisfy { $0.megabytesPerSecond.count == 1 && $0.complaints.isEmpty })
      #expect(result.latencies.map(\.way) == ["longhaul", "longhaul-plain", "direct"])
      for latency in result.latencies {
        #expect(latency.p50Milliseconds > 0 && latency.p50Milliseconds <= latency.p99Milliseconds)
        // Windows of a flow and of some sockets; a relay that holds nothing up takes a gigabyte.
        #expect((1..<200_000_000).contains(latency.octetsForStoppedReceiver), "\(latency)")
      }
    }
  }
}
