import Lab
import Testing
import Vocabulary

@Suite("The audit of a download")
struct AuditTests {
  static let file = TestFile(octets: 10 * 4_096 + 100, seed: 7)
  static let contents = Array((0..<11).flatMap { file.block($0) }.prefix(file.octets))

  func audit(_ bytes: [UInt8], inPartsOf part: Int = 1_000) -> DownloadAudit.Verdict {
    var audit = DownloadAudit(Self.file)
    var index = 0
    while index < bytes.count {
      let end = min(index + part, bytes.count)
      audit.take(Array(bytes[index..<end]))
      index = end
    }
    return audit.finish()
  }

  @Test("a right file is right, however it is cut", arguments: [1, 7, 1_000, 4_096, 100_000])
  func right(part: Int) {
    let verdict = audit(Self.contents, inPartsOf: part)
    #expect(verdict.octets == Self.file.octets)
    #expect(verdict.lost == 0)
    #expect(verdict.duplicated == 0)
    var digest = Digest()
    digest.update(Self.contents)
    #expect(verdict.digest == digest.finish())
  }

  @Test("octets that are missing are counted, wherever they are missing", arguments: [1, 16, 4_095, 4_096, 9_999], [0, 1, 4_090, 8_192])
  func missing(count: Int, at place: Int) {
    var bytes = Self.contents
    bytes.removeSubrange(place..<(place + count))
    let verdict = audit(bytes)
    #expect(verdict.lost == count)
    #expect(verdict.duplicated == 0)
  }

  @Test("octets that come twice are counted", arguments: [1, 16, 4_096, 9_999], [0, 5, 8_192])
  func twice(count: Int, at place: Int) {
    var bytes = Self.contents
    bytes.insert(contentsOf: bytes[place..<(place + count)], at: place + count)
    let verdict = audit(bytes)
    #expect(verdict.duplicated == count)
    #expect(verdict.lost == 0)
  }

  @Test("a file that ends early has lost the rest")
  func early() {
    let verdict = audit(Array(Self.contents.prefix(20_000)))
    #expect(verdict.lost == Self.file.octets - 20_000)
    #expect(verdict.duplicated == 0)
  }

  @Test("a hole and a repetition in one file are told apart")
  func both() {
    var bytes = Self.contents
    bytes.insert(contentsOf: bytes[20_000..<20_500], at: 20_500)
    bytes.removeSubrange(5_000..<5_100)
    let verdict = audit(bytes)
    #expect(verdict.lost == 100)
    #expect(verdict.duplicated == 500)
  }

  @Test("foreign octets do not fill the memory, and the digest tells")
  func foreign() {
    var random = SeededGenerator(seed: 1)
    let verdict = audit((0..<200_000).map { _ in UInt8.random(in: 0...255, using: &random) })
    #expect(verdict.lost + verdict.duplicated > 0)
  }
}

@Suite("The figures of a download")
struct FigureTests {
  /// 1,250 octets each millisecond: 10 Mbit/s, with a gap.
  func reads(gap: ClosedRange<Double>?) -> [Download.Read] {
    (0...4_000).compactMap { index in
      let second = Double(index) / 1_000
      return gap.map { second > $0.lowerBound && second < $0.upperBound } == true ? nil : Download.Read(octets: 1_250, seconds: second)
    }
  }

  @Test("rates before and after, and the gap between them")
  func rates() throws {
    let figures = try #require(DownloadFigures(reads(gap: 2...2.5), migration: 1, wouldBegin: 1))
    #expect(abs(figures.rateBefore - 10) < 0.1)
    #expect(abs((figures.rateDuring ?? 0) - 10) < 0.1)
    #expect(abs(figures.rateAfter - 10) < 0.1)
    #expect(abs(figures.gapEnd - figures.gapStart - 0.5) < 0.01)
  }

  @Test("too little to measure is nothing")
  func nothing() {
    #expect(DownloadFigures([], migration: 1, wouldBegin: 1) == nil)
    #expect(DownloadFigures([Download.Read(octets: 1, seconds: 0)], migration: nil, wouldBegin: 0) == nil)
  }

  @Test("the samples hold every octet")
  func samples() {
    let samples = DownloadFigures.samples(of: reads(gap: nil))
    #expect(samples.reduce(0) { $0 + $1.octets } == 4_001 * 1_250)
    #expect(samples.count == 41)
  }
}

@Suite("The settings of the lab")
struct SettingsTests {
  @Test("what cannot be is refused, with the option's name")
  func refused() {
    func fails(_ option: String, _ change: (inout LabSettings) -> Void) {
      var settings = LabSettings()
      change(&settings)
      #expect {
        try settings.check()
      } throws: {
        "\($0)".contains(option)
      }
    }
    fails("--size") { $0.size = ByteCount(1_000) }
    fails("--rate") { $0.rate = .megabitsPerSecond(0) }
    fails("--rtt-before") { $0.roundTripBefore = .milliseconds(-1 as Int64) }
    fails("--rtt-after") { $0.roundTripAfter = .seconds(3 as Int64) }
    fails("--loss") { $0.loss = 0.6 }
    fails("--endpoint-window") { $0.endpointWindow = 1 }
    fails("--migration-rate") { $0.migrationRate = .megabitsPerSecond(1) }
  }

  @Test("the default is the paper's case")
  func standard() throws {
    try LabSettings().check()
    #expect(LabSettings().queue == ByteCount(1_350_000))
  }
}
