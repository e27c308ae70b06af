import Foundation
import LinuxNetwork
import Vocabulary
import WANEmulation

/// Downloads of fresh and of known objects over an emulated WAN, by each way: with real programs in network namespaces.
package struct AcceleratorBench: Sendable {
  private let settings: AcceleratorBenchSettings
  private let progress: RunProgress

  package init(_ settings: AcceleratorBenchSettings, isQuiet: Bool = false) {
    self.settings = settings
    progress = RunProgress(isQuiet: isQuiet)
  }

  /// Runs it, and takes everything down again, also after an error and when the task is cancelled.
  package func run() async throws -> AcceleratorBenchResult {
    try settings.check()
    let prerequisites = try Prerequisites(program: settings.program)
    var leftOut: [String] = []
    let ways = settings.ways.filter { way in
      guard let missing = way.programs.first(where: { Shell.find($0.name) == nil }) else { return true }
      leftOut.append("\(way.rawValue): \(missing.name) is not on this machine; install Debian's package \(missing.package)")
      return false
    }
    let files = settings.contents.contains(.image) ? FileSet() : nil
    let started = ContinuousClock.now
    var cells: [AcceleratorBenchResult.Cell] = []
    var number = 0
    for rate in settings.rates {
      for loss in settings.losses {
        for roundTrip in settings.roundTrips {
          number += 1
          let run = AcceleratorBenchRun(
            settings: settings, ways: ways, rate: rate, roundTrip: roundTrip, loss: loss, number: number, files: files,
            program: prerequisites.program, deadline: started + .nanoseconds(settings.budget.nanoseconds), progress: progress)
          guard !run.isOver else {
            leftOut.append("\(run.place): the time is up (--minutes)")
            continue
          }
          let folder = try await RunFolder.taken { progress.step("waiting for another run of the lab to end") }
          defer {
            if let logs = settings.logFolder { folder.keepLogs(in: logs) }
            folder.remove()
          }
          let (cell, missing) = try await run.measure(folder)
          cells.append(cell)
          leftOut += missing
        }
      }
    }
    return AcceleratorBenchResult(
      longhaul: "0.1.0", kernel: AcceleratorBenchResult.kernelVersion,
      versions: Dictionary(ways.compactMap { way in way.version.map { (way.rawValue, $0) } }) { first, _ in first },
      settings: AcceleratorBenchResult.Settings(
        seed: settings.seed, repeats: settings.repeats, transferLimitSeconds: settings.transferLimit.seconds,
        acceleratorOptions: settings.options,
        image: files.map {
          "the files under \(FileSet.root), \($0.totalOctets) octets; in the next version 1 of 40 is changed, 1 of 200 gone, 1 of 200 new"
        }
          ?? ""),
      cells: cells, leftOut: leftOut)
  }
}

/// One cell of it: one rate, one round trip, one loss, and a lab of its own.
struct AcceleratorBenchRun: Sendable {
  /// A rival's transfer that takes longer is not repeated.
  private static let longOnes = 3.0
  /// What is left under way when a transfer has ended or was stopped: a queue of 100 ms, some round trips, buffers of relays.
  private static let quietLimit = TimeSpan.seconds(5 as Int64)
  /// Of smaller objects the processor time is lost in the clock's noise.
  private static let leastForUsage = 1_000_000

  var settings: AcceleratorBenchSettings
  var ways: [AcceleratorWay]
  var rate: BitRate
  var roundTrip: TimeSpan
  var loss: Double
  /// Of the cell; objects of other cells have other seeds.
  var number: Int
  var files: FileSet?
  var program: String
  var deadline: ContinuousClock.Instant
  var progress: RunProgress

  var isOver: Bool { ContinuousClock.now >= deadline }
  var place: String { String(format: "%g Mbit/s, %g ms, %g %% loss", rate.megabitsPerSecond, roundTrip.milliseconds, loss * 100) }

  func measure(_ folder: RunFolder) async throws -> (AcceleratorBenchResult.Cell, leftOut: [String]) {
    progress.step(place)
    let topology = try AcceleratorTopology(rate: rate, roundTrip: roundTrip, loss: loss, seed: settings.seed &+ UInt64(number))
    defer { _ = topology.stop() }
    guard let address = Endpoint("\(AcceleratorTopology.serverAddress):9000") else { preconditionFailure("a constant") }
    let server = try await ObjectServer(on: address, in: AcceleratorTopology.server)
    defer { server.stop() }
    var rows: [AcceleratorBenchResult.Row] = []
    var protocols: [AcceleratorProtocols.Row] = []
    var leftOut: [String] = []
    var objects = ObjectSupply(files: files, seed: settings.seed &* 1_000_003 &+ UInt64(number) << 20)
    for way in ways {
      guard !isOver else {
        leftOut.append("\(way.rawValue) at \(place): the time is up (--minutes)")
        continue
      }
      let places = RelayPlaces(
        nearSpace: way.seesContents ? AcceleratorTopology.acceleratorA : AcceleratorTopology.hopA,
        farSpace: way.seesContents ? AcceleratorTopology.acceleratorB : AcceleratorTopology.hopB,
        nearAddress: way.seesContents ? AcceleratorTopology.acceleratorAAddress : AcceleratorTopology.hopAAddress,
        farAddress: way.seesContents ? AcceleratorTopology.acceleratorBAddress : AcceleratorTopology.hopBAddress,
        client: way == .narrow ? AcceleratorTopology.narrowClient : AcceleratorTopology.client, server: server.endpoint,
        prefix: AcceleratorTopology.serverPrefix, rate: rate, roundTrip: roundTrip, folder: folder.file(way.rawValue))
      let passage = try await AcceleratorPassage.start(way, places, program: program, options: settings.options)
      defer {
        passage.end()
        if let logs = settings.logFolder { folder.keepLogs(in: logs, from: way.rawValue) }
      }
      for kind in settings.contents where way.seesContents || kind == settings.contents.first {
        var slow: AcceleratorBenchResult.Row?
        var slowRate = 0.0
        for size in settings.sizes.sorted() {
          guard !isOver else {
            leftOut.append("\(way.rawValue) at \(place), \(kind.rawValue), \(size) octets: the time is up (--minutes)")
            continue
          }
          if let slow, slowRate > 0 {
            rows.append(computed(size, from: slow, rate: slowRate))
            continue
          }
          let (found, steady) = try await measure(way, kind, size, passage, server, topology, &objects)
          for row in found {
            progress.step(
              String(
                format: "%@ %@ %d %@: %.3f s, %.3f x limit%@", way.rawValue, kind.rawValue, size, row.pass.rawValue, row.median, row.ratio,
                row.isComputed ? " (computed)" : ""))
          }
          rows += found
          if let first = found.first, first.isComputed { (slow, slowRate) = (first, steady) }
        }
      }
      if settings.measuresProtocols, way == .longhaul {
        progress.step("real programs through the pair")
        protocols = try await AcceleratorProtocols(
          passage: passage, topology: topology, server: server, roundTrip: roundTrip, logs: folder.file(way.rawValue)
        ).measure(&objects, kind: files == nil ? .text : .image)
      }
    }
    return (
      AcceleratorBenchResult.Cell(
        rateMbps: rate.megabitsPerSecond, roundTripMilliseconds: roundTrip.milliseconds, lossPercent: loss * 100, rows: rows,
        protocols: protocols,
        load: AcceleratorBenchResult.load, wan: topology.stop()), leftOut
    )
  }

  /// A larger object than one that already took too long.
  private func computed(_ size: Int, from row: AcceleratorBenchResult.Row, rate steady: Double) -> AcceleratorBenchResult.Row {
    var row = row
    let more = Double(size - row.octets) / steady
    row.dataSeconds = [row.median + more]
    row.totalSeconds = [BenchResult.median(ofSorted: row.totalSeconds.sorted()) + more]
    row.octets = size
    row.limitSeconds = AcceleratorBenchResult.limit(size, rate: rate, roundTrip: roundTrip)
    row.wanOctetsDown = nil
    row.wanOctetsUp = nil
    row.nearSecondsPerGigabyte = nil
    row.farSecondsPerGigabyte = nil
    return row
  }

  // MARK: One row

  private struct Sample {
    var outcome: ObjectFetch.Outcome
    var down: Double
    var up: Double
    var near: Double
    var far: Double
  }

  private func measure(
    _ way: AcceleratorWay, _ kind: BenchObject.Kind, _ size: Int, _ passage: AcceleratorPassage, _ server: ObjectServer,
    _ topology: AcceleratorTopology, _ objects: inout ObjectSupply
  ) async throws -> ([AcceleratorBenchResult.Row], steadyRate: Double) {
    var samples: [AcceleratorBenchResult.Pass: [Sample]] = [:]
    for _ in 0..<settings.repeats {
      let versions = try objects.next(kind, size, versions: kind == .image && way.seesContents ? 2 : 1)
      var passes: [(AcceleratorBenchResult.Pass, BenchObject)] = [(.first, versions[0])]
      if way.seesContents { passes.append((.again, versions[0])) }
      if versions.count > 1 { passes.append((.nextVersion, versions[1])) }
      for (pass, object) in passes {
        server.put(object, as: 1)
        let sample = try await fetch(object, passage, topology)
        samples[pass, default: []].append(sample)
        try passage.check()
      }
      server.remove(1)
      if !way.seesContents, (samples[.first]?.last?.outcome.dataSeconds ?? 0) > Self.longOnes { break }
    }
    let usage = passage.usage
    let rows = AcceleratorBenchResult.Pass.allCases.compactMap { pass in
      samples[pass].map { row(way, kind, size, pass, $0, usage, hasRelays: !passage.near.isEmpty) }
    }
    return (rows, samples[.first]?.last?.outcome.steadyRate ?? 0)
  }

  private func fetch(_ object: BenchObject, _ passage: AcceleratorPassage, _ topology: AcceleratorTopology) async throws -> Sample {
    try topology.forgetMetrics()
    let before = (topology.octets, passage.usage)
    let outcome = try await ObjectFetch(
      entry: passage.entry, target: passage.target, space: passage.client, number: 1, control: passage.way.control, object: object,
      limit: settings.transferLimit
    ).run()
    try await topology.waitUntilQuiet(limit: Self.quietLimit)
    let after = (topology.octets, passage.usage)
    return Sample(
      outcome: outcome, down: Double(after.0.down - before.0.down), up: Double(after.0.up - before.0.up),
      near: after.1.near.cpuSeconds - before.1.near.cpuSeconds, far: after.1.far.cpuSeconds - before.1.far.cpuSeconds)
  }

  private func row(
    _ way: AcceleratorWay, _ kind: BenchObject.Kind, _ size: Int, _ pass: AcceleratorBenchResult.Pass, _ samples: [Sample],
    _ usage: (near: ProcessUsage, far: ProcessUsage), hasRelays: Bool
  ) -> AcceleratorBenchResult.Row {
    let good = samples.filter { $0.outcome.complaint == nil && $0.outcome.wrongAt == nil }
    func median(_ figure: (Sample) -> Double) -> Double { BenchResult.median(ofSorted: good.map(figure).sorted()) }
    let isWhole = good.allSatisfy(\.outcome.isComplete)
    let hasUsage = hasRelays && isWhole && size >= Self.leastForUsage && !good.isEmpty
    return AcceleratorBenchResult.Row(
      way: way, contents: kind, octets: size, pass: pass, dataSeconds: good.map(\.outcome.dataSeconds),
      totalSeconds: good.map(\.outcome.totalSeconds), isComputed: !isWhole,
      limitSeconds: AcceleratorBenchResult.limit(size, rate: rate, roundTrip: roundTrip),
      wanOctetsDown: isWhole && !good.isEmpty ? median(\.down) : nil, wanOctetsUp: isWhole && !good.isEmpty ? median(\.up) : nil,
      nearSecondsPerGigabyte: hasUsage ? median(\.near) / Double(size) * 1e9 : nil,
      farSecondsPerGigabyte: hasUsage ? median(\.far) / Double(size) * 1e9 : nil,
      nearPeakOctets: hasRelays ? usage.near.peakOctets : nil, farPeakOctets: hasRelays ? usage.far.peakOctets : nil,
      complaints: samples.compactMap { sample in
        sample.outcome.wrongAt.map { "WRONG OCTETS from \($0) on" } ?? sample.outcome.complaint
      })
  }
}
