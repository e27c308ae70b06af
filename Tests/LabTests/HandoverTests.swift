import Foundation
import LinuxNetwork
import Lab
import Testing
import Vocabulary

/// The built `longhaul`, as scripts/test names it.
let program = ProcessInfo.processInfo.environment["LONGHAUL_PROGRAM"]
let guestIsThere = FileManager.default.fileExists(atPath: "\(Prerequisites.guestFolder)/vmlinuz")

extension WholeMachine {
  /// Real QEMU guests that really migrate while an FTP download runs. One guest is booted and saved; each case starts from it.
  @Suite(
    "Real migrations", .serialized,
    .enabled(
      if: mayMakeNamespaces && program != nil && guestIsThere,
      "needs root, LONGHAUL_PROGRAM, and the guest's kernel that scripts/setup brings"))
  struct HandoverTests {
    static let savedGuests = NSTemporaryDirectory() + "longhaul-lab-guests-\(getpid())"

    func run(_ change: (inout LabSettings) -> Void) async throws -> HandoverResult {
      var settings = LabSettings()
      settings.program = program
      settings.size = .mebibytes(24)
      settings.roundTripAfter = .milliseconds(100 as Int64)
      settings.savedGuest = Self.savedGuests
      change(&settings)
      return try await HandoverExperiment(settings, isQuiet: true).run()
    }

    func expectWhole(_ result: HandoverResult) {
      #expect(result.faults.isEmpty, "\(result.report)")
      #expect(result.bytes == 24 << 20)
      #expect(result.sha256Matches)
      #expect(result.bytesLost == 0)
      #expect(result.bytesDuplicated == 0)
      #expect(result.applicationConnections == 2)
      #expect(Namespace.all(prefix: RunFolder.namespacePrefix).isEmpty)
      #expect(!FileManager.default.fileExists(atPath: RunFolder.path))
    }

    @Test(
      "a download lives through a migration, and goes on through accelerators that were inserted for the delay",
      arguments: [1, 2] as [UInt64])
    func completes(seed: UInt64) async throws {
      let result = try await run { $0.seed = seed }
      expectWhole(result)
      #expect(result.migrationOutcome == "completed")
      #expect(result.acceleratorInserted)
      #expect(result.insertionReason?.contains("exceeds 50 ms") == true)
      #expect(result.hypervisorDowntimeMilliseconds != nil)
      let events = result.timeline.map(\.event)
      let order = ["PREPARE", "FREEZE", "RESUME", "GO:", "FENCE"].map { word in events.firstIndex { $0.hasPrefix(word) } }
      #expect(order.allSatisfy { $0 != nil } && order.compactMap { $0 } == order.compactMap { $0 }.sorted(), "\(result.report)")
    }

    @Test("without accelerators it lives too, on a direct path")
    func direct() async throws {
      let result = try await run {
        $0.usesAccelerators = false
        $0.endpointWindow = nil
      }
      expectWhole(result)
      #expect(!result.acceleratorInserted)
      #expect(result.migrationOutcome == "completed")
    }

    @Test("a migration that is cancelled half-way is rolled back, and the download ends at Center 1")
    func cancelled() async throws {
      let result = try await run { $0.migration = .cancel }
      expectWhole(result)
      #expect(result.migrationOutcome == "rolledBack")
      #expect(!result.timeline.contains { $0.event.hasPrefix("GO:") })
    }

    @Test("a destination that dies half-way is rolled back, and the download ends at Center 1")
    func destinationKilled() async throws {
      let result = try await run { $0.migration = .killDestination }
      expectWhole(result)
      #expect(result.migrationOutcome == "rolledBack")
      #expect(!result.timeline.contains { $0.event.hasPrefix("GO:") })
    }

    @Test("a run that is cancelled leaves nothing behind")
    func interrupted() async throws {
      let task = Task { try await run { $0.size = .mebibytes(4) } }
      // Wherever it is by then, it must clean up: the namespaces are there at once, the guest some seconds later.
      let deadline = ContinuousClock.now + .seconds(20)
      while Namespace.all(prefix: RunFolder.namespacePrefix).isEmpty, ContinuousClock.now < deadline {
        try await Task.sleep(for: .milliseconds(20))
      }
      task.cancel()
      await #expect(throws: (any Error).self) { try await task.value }
      #expect(Namespace.all(prefix: RunFolder.namespacePrefix).isEmpty)
      #expect(!FileManager.default.fileExists(atPath: RunFolder.path))
    }

    @Test("two runs at once are refused, in words")
    func twice() throws {
      let folder = try RunFolder()
      defer { folder.remove() }
      #expect {
        _ = try RunFolder()
      } throws: {
        "\($0)".contains("another run is going on")
      }
    }
  }
}
