import Foundation
import Lab
import LinuxNetwork
import Testing
import Vocabulary

extension WholeMachine {
  /// Real programs, and a machine that is a namespace: seconds, not minutes.
  @Suite(
    "The handover bench", .serialized,
    .enabled(if: mayMakeNamespaces && program != nil, "needs root, and LONGHAUL_PROGRAM"))
  struct BenchTests {
    @Test(
      "an application's stream lives through moves there and back, whole, on the direct path and with its first flight parked",
      arguments: [false, true])
    func moves(isParked: Bool) async throws {
      var settings = BenchSettings()
      settings.program = program
      settings.roundTrips = [.milliseconds(20 as Int64)]
      settings.moves = 2
      settings.isParked = isParked
      let result = try await HandoverBench(settings, isQuiet: true).run()
      #expect(result.faults.isEmpty, "\(result.report)")
      let cell = try #require(result.cells.first)
      #expect(cell.moves.map(\.to) == ["center2", "center1"])
      #expect(cell.octets > 0 && cell.octetsLost == 0 && cell.octetsDuplicated == 0)
      // A machine under load is late, so no figure is asked for; but nobody is quicker than the machine's own pause, less the tick of the clock that measures it.
      #expect(cell.minimumMilliseconds > -5, "\(result.report)")
      #expect(Namespace.all(prefix: RunFolder.namespacePrefix).isEmpty)
      #expect(!FileManager.default.fileExists(atPath: RunFolder.path))
    }

    @Test("what cannot be measured is refused, in words")
    func refused() {
      var settings = BenchSettings()
      settings.losses = [0.9]
      #expect {
        try settings.check()
      } throws: {
        "\($0)".contains("--loss must be a list of percents")
      }
    }
  }
}
