import Foundation
import Lab
import LinuxNetwork
import Testing
import Vocabulary

extension WholeMachine {
  /// Real programs on a small WAN: seconds.
  @Suite(
    "The accelerator bench", .serialized,
    .enabled(if: mayMakeNamespaces && program != nil, "needs root, and LONGHAUL_PROGRAM"))
  struct AcceleratorBenchTests {
    @Test("downloads come whole by each way, no sooner than is possible, and nothing is left behind")
    func downloads() async throws {
      var settings = AcceleratorBenchSettings()
      settings.program = program
      settings.roundTrips = [.milliseconds(20 as Int64)]
      settings.losses = [0]
      settings.sizes = [10_000, 1_000_000]
      settings.contents = [.random, .text]
      settings.ways = [.longhaul, .plain, .cubic]
      settings.repeats = 1
      let result = try await AcceleratorBench(settings, isQuiet: true).run()
      #expect(result.faults.isEmpty && result.leftOut.isEmpty, "\(result.report)")
      let rows = try #require(result.cells.first).rows
      // Two contents, two sizes, two passes through two pairs are 16; two sizes directly, with one content and one pass.
      #expect(rows.count == 18)
      for row in rows {
        #expect(row.dataSeconds.count == 1 && !row.isComputed && row.complaints.isEmpty)
        // A text may be compressed below what its octets would take; its round trip remains.
        #expect(row.median >= (row.contents == .random && row.pass == .first ? row.limitSeconds * 0.9 : 0.02), "\(row)")
        let onTheWAN = try #require(row.wanOctetsDown)
        if row.contents == .random, row.pass == .first { #expect(onTheWAN >= Double(row.octets)) }
        if row.contents == .text, row.way == .longhaul, row.octets == 1_000_000 { #expect(onTheWAN < 0.7e6) }
      }
      #expect(Namespace.all(prefix: RunFolder.namespacePrefix).isEmpty)
      #expect(!FileManager.default.fileExists(atPath: RunFolder.path))
    }

    @Test("a transfer that would take too long is stopped, and said to be computed; a larger one is not tried")
    func computed() async throws {
      var settings = AcceleratorBenchSettings()
      settings.program = program
      settings.rates = [.megabitsPerSecond(8)]
      settings.roundTrips = [.milliseconds(20 as Int64)]
      settings.losses = [0]
      settings.sizes = [4_000_000, 40_000_000]
      settings.contents = [.random]
      settings.ways = [.cubic]
      settings.repeats = 1
      settings.transferLimit = .seconds(1 as Int64)
      let rows = try #require(try await AcceleratorBench(settings, isQuiet: true).run().cells.first).rows
      #expect(rows.count == 2 && rows.allSatisfy(\.isComputed))
      // 4 and 40 MB at 1 MB/s; a busy machine may see less.
      #expect(rows.allSatisfy { $0.median > Double($0.octets) / 1e6 * 0.9 && $0.wanOctetsDown == nil })
    }

    @Test("what cannot be measured is refused, in words")
    func refused() {
      var settings = AcceleratorBenchSettings()
      settings.sizes = [0]
      #expect {
        try settings.check()
      } throws: {
        "\($0)".contains("--objects must be a list of sizes")
      }
    }
  }
}

@Suite("Objects of the accelerator bench")
struct BenchObjectTests {
  @Test("follow from their seeds", arguments: [BenchObject.Kind.random, .text])
  func seeded(kind: BenchObject.Kind) throws {
    func make(_ seed: UInt64) throws -> [UInt8] {
      var supply = ObjectSupply(files: nil, seed: seed)
      return try #require(try supply.next(kind, 100_003).first).octets
    }
    #expect(try make(1) == make(1))
    #expect(try make(1) != make(2))
    #expect(try make(1).count == 100_003)
  }

  @Test("a text has thousands of words, some of them often")
  func words() throws {
    var supply = ObjectSupply(files: nil, seed: 1)
    let text = String(decoding: try #require(try supply.next(.text, 500_000).first).octets, as: UTF8.self)
    let counts = Dictionary(text.split(whereSeparator: \.isWhitespace).map { ($0, 1) }, uniquingKeysWith: +)
    #expect(counts.count > 2_000)
    let most = try #require(counts.values.max())
    #expect(most > 100 && most < 10_000)
  }

  @Test("an image's next version shares most of its pieces with the former, and not all")
  func versions() throws {
    let folder = NSTemporaryDirectory() + "longhaul-files-\(UUID().uuidString)"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    for number in 0..<400 {
      let text = String(repeating: "file \(number) ", count: 300)
      try text.write(toFile: "\(folder)/\(number)", atomically: true, encoding: .utf8)
    }
    var supply = ObjectSupply(files: FileSet(root: folder), seed: 1)
    let versions = try supply.next(.image, 1_000_000, versions: 2).map(\.octets)
    #expect(versions.map(\.count) == [1_000_000, 1_000_000])
    func pieces(_ octets: [UInt8]) -> Set<ArraySlice<UInt8>> {
      Set(stride(from: 0, to: octets.count - 511, by: 512).map { octets[$0..<($0 + 512)] })
    }
    let (former, next) = (pieces(versions[0]), pieces(versions[1]))
    #expect(next.subtracting(former).count > 0)
    #expect(Double(next.intersection(former).count) > 0.8 * Double(former.count))
  }
}
