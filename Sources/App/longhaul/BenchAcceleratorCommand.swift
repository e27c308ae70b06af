import ArgumentParser
import CommandSupport
import Foundation
import Lab
import Vocabulary

/// `longhaul bench accelerator`.
struct AcceleratorBenchCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "accelerator",
    abstract:
      "Downloads over an emulated WAN, through a pair of accelerators and by other ways: times, octets on the WAN, processor time. Needs root."
  )

  @Option(help: "Rates of the WAN, in Mbit/s.")
  var rates: NumberList = "100"

  @Option(help: "Round trips of the WAN, in milliseconds.")
  var rtt: NumberList = "0,20,100,300,500"

  @Option(help: "Of the segments on the WAN, in percent; each with each round trip.")
  var loss: NumberList = "0,1"

  @Option(help: "Sizes of the objects: octets, or with K, M, G (powers of 1000).")
  var objects: SizeList = "10K,1M,10M,50M"

  @Option(help: "What is in them: random, text, image.")
  var contents: NameList<BenchObject.Kind> = "random,text,image"

  @Option(help: "Ways: longhaul, longhaul-plain, direct64k, direct-cubic, direct-bbr, haproxy, socat, kcptun.")
  var ways: NameList<AcceleratorWay> = "longhaul,direct64k,direct-cubic,direct-bbr,haproxy"

  @Option(name: .customLong("repeat"), help: "Downloads of each kind, every one of a new object.")
  var repeats = 3

  @Option(help: "The seed of the contents and of the losses.")
  var seed: UInt64 = 1

  @Option(help: "Seconds after which a transfer is stopped, and its time computed from the rate of its second half.")
  var limit = 12.0

  @Option(help: "Minutes after which nothing new is begun.")
  var minutes = 40.0

  @Flag(help: "Real programs through the pair, too: FTP and HTTP by curl, and keystrokes beside a download.")
  var protocols = false

  @Flag(help: "Two minutes: 1 MB and 10 MB at 20 and 300 ms, twice, without other relays.")
  var quick = false

  @Flag(
    help:
      "On loopback instead: how many octets a second one connection carries, for how much processor time, and what a ping of 32 octets takes. Does not need root."
  )
  var local = false

  @Option(help: "Octets of each transfer with --local, or with K, M, G.")
  var localSize: SizeList = "1073741824"

  @Option(parsing: .singleValue, help: "A further option of both accelerators; may be given several times.")
  var with: [String] = []

  @Option(name: .customLong("json"), help: "Write the figures to this file.")
  var jsonFile: String?

  @Option(help: "Keep the logs of all parts in this folder.")
  var logs: String?

  @Flag(help: "Print nothing but the tables.")
  var quiet = false

  private var settings: AcceleratorBenchSettings {
    var settings = AcceleratorBenchSettings()
    settings.rates = rates.numbers.map { .megabitsPerSecond($0) }
    settings.roundTrips = (quick ? [20, 300] : rtt.numbers).map { .milliseconds($0) }
    settings.losses = (quick ? [0] : loss.numbers).map { $0 / 100 }
    settings.sizes = quick ? [1_000_000, 10_000_000] : objects.sizes
    settings.contents = contents.values
    settings.ways = quick && !local ? [.longhaul, .cubic] : ways.values
    settings.repeats = quick ? 2 : repeats
    settings.seed = seed
    settings.transferLimit = .seconds(quick ? 4 : limit)
    settings.budget = .seconds((quick ? 1.5 : minutes) * 60)
    settings.measuresProtocols = protocols
    settings.options = with
    settings.logFolder = logs
    return settings
  }

  func validate() throws {
    for (option, value) in [("--limit", limit), ("--minutes", minutes)] {
      guard value.isFinite, abs(value) < 1e6 else { throw ValidationError("\(option) \(value): not a usable number") }
    }
    do { try settings.check() } catch { throw ValidationError(error.description) }
  }

  func run() async throws {
    if let jsonFile { try checkWritable(jsonFile, "--json") }
    let outcome = Outcome()
    if local { try await runLocal(outcome) } else { try await runOnWAN(outcome) }
    if let code = outcome.exitCode { throw code }
  }

  private func runLocal(_ outcome: Outcome) async throws {
    var settings = settings
    // TCP acceleration alone beside the rest: it is what a relay is compared with.
    if !settings.ways.contains(.plain) { settings.ways.append(.plain) }
    let octets = quick ? 128 << 20 : localSize.sizes.max() ?? 1 << 30
    let bench = AcceleratorLocalBench(octets: octets, settings, isQuiet: quiet)
    let jsonFile = self.jsonFile
    try await runUntilSignalled {
      let result = try await bench.run()
      if let jsonFile { try writeJSON(result, to: jsonFile) }
      print(result.report)
      outcome.finish(isGood: result.faults.isEmpty)
    }
  }

  private func runOnWAN(_ outcome: Outcome) async throws {
    let bench = AcceleratorBench(settings, isQuiet: quiet)
    let jsonFile = self.jsonFile
    try await runUntilSignalled {
      let result = try await bench.run()
      if let jsonFile { try writeJSON(result, to: jsonFile) }
      print(result.report)
      outcome.finish(isGood: result.faults.isEmpty)
    }
  }
}

/// Sizes with commas between them: `10K,1M`.
struct SizeList: ExpressibleByArgument, ExpressibleByStringLiteral, CustomStringConvertible {
  var sizes: [Int]
  private let text: String
  var description: String { text }
  var defaultValueDescription: String { text }

  init?(argument: String) {
    let units: [Character: Double] = ["K": 1e3, "M": 1e6, "G": 1e9]
    let parts = argument.split(separator: ",", omittingEmptySubsequences: false).map { part -> Int? in
      let unit = part.last.flatMap { units[$0] }
      guard let value = Double(unit == nil ? part[...] : part.dropLast()), value.isFinite, value * (unit ?? 1) >= 1,
        value * (unit ?? 1) <= 1e12
      else { return nil }
      return Int(value * (unit ?? 1))
    }
    sizes = parts.compactMap { $0 }
    text = argument
    guard sizes.count == parts.count else { return nil }
  }

  init(stringLiteral text: String) {
    sizes = SizeList(argument: text)?.sizes ?? []
    self.text = text
  }
}

/// Names out of a set, with commas between them.
struct NameList<Name: RawRepresentable & CaseIterable & Sendable>: ExpressibleByArgument, ExpressibleByStringLiteral,
  CustomStringConvertible
where Name.RawValue == String {
  var values: [Name]
  var description: String { values.map(\.rawValue).joined(separator: ",") }
  var defaultValueDescription: String { description }

  init?(argument: String) {
    let parts = argument.split(separator: ",", omittingEmptySubsequences: false).map { Name(rawValue: String($0)) }
    values = parts.compactMap { $0 }
    guard values.count == parts.count else { return nil }
  }

  init(stringLiteral text: String) { values = NameList(argument: text)?.values ?? [] }
}
