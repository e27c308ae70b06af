// A program beside the tests of ChunkStores: one to be killed while it writes, and one that measures.
//
//     StoreProbe write FOLDER CAPACITY FIRST     puts chunk after chunk, and prints how many are surely on disk; until it is killed
//     StoreProbe measure FOLDER MEGABYTES        puts, takes, and opens again; prints figures
import ChunkStores
import Dedup
import Foundation
import Logging
import NIOCore
import StoreSamples
import Vocabulary

LoggingSystem.bootstrap { StreamLogHandler.standardError(label: $0) }
let arguments = CommandLine.arguments
guard arguments.count >= 4, let number = Int(arguments[3]) else {
  print("StoreProbe write FOLDER CAPACITY FIRST | measure FOLDER MEGABYTES")
  exit(2)
}

func open(_ capacity: Int) -> DiskChunkStore {
  do { return try DiskChunkStore(folder: arguments[2], capacity: capacity, logger: Logger(label: "store")) } catch {
    print(error)
    exit(1)
  }
}

if arguments[1] == "write" {
  // A test that has lost it does not leave it behind.
  alarm(60)
  let store = open(number)
  let peer = store.slot(of: "peer", store: 7)
  var next = arguments.count > 4 ? Int(arguments[4]) ?? 0 : 0
  while true {
    for _ in 0..<64 {
      let sample = Sample(next)
      store.put(sample.name, sample.bytes, sharedWith: peer)
      next += 1
    }
    await store.settle()
    print(next)
    fflush(nil)
    // What follows is on its way to the disk when the kill comes.
    for _ in 0..<64 {
      let sample = Sample(next)
      store.put(sample.name, sample.bytes, sharedWith: peer)
      next += 1
    }
  }
} else {
  await Measurement(megabytes: number).run()
}

struct Measurement {
  let megabytes: Int
  private static let chunk = 8 << 10
  private var chunks: Int { megabytes << 20 / Measurement.chunk }

  private func name(_ number: Int) -> ChunkName {
    var generator = SeededGenerator(seed: UInt64(number))
    return ChunkName(high: generator.next(), middle: generator.next(), low: UInt32(truncatingIfNeeded: generator.next()))
  }

  /// Octets, not all of one page: names are what tells chunks apart here.
  private func octets(_ number: Int, of pool: ByteBuffer) -> ByteBuffer {
    pool.getSlice(at: number * 64 % (pool.readableBytes - Measurement.chunk), length: Measurement.chunk) ?? pool
  }

  private func timed(_ what: String, octets: Int, _ body: () async -> String) async {
    let (clock, cpu) = (ContinuousClock.now, processSeconds())
    let note = await body()
    let seconds = Double((ContinuousClock.now - clock) / .nanoseconds(1)) / 1e9
    let used = processSeconds() - cpu
    let rate = octets > 0 ? String(format: "%7.0f MB/s, CPU %.2f s/GB", Double(octets) / seconds / 1e6, used / Double(octets) * 1e9) : ""
    print(what.padding(toLength: 44, withPad: " ", startingAt: 0), String(format: "%8.3f s", seconds), rate, note)
  }

  private func processSeconds() -> Double {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6
  }

  private func residentOctets() -> Int {
    let fields = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8))?.split(separator: " ") ?? []
    return (fields.count > 1 ? Int(fields[1]) ?? 0 : 0) * 4096
  }

  func run() async {
    let total = chunks * Measurement.chunk
    let capacity = total * 2
    var generator = SeededGenerator(seed: 1)
    var pool = ByteBuffer()
    for _ in 0..<(1 << 20) { pool.writeInteger(generator.next()) }
    let bytes = pool
    var store = open(capacity)
    let before = residentOctets()
    await timed("put, as fast as the queue takes them", octets: total) {
      var waits = 0
      for number in 0..<chunks {
        store.put(name(number), octets(number, of: bytes), sharedWith: nil)
        // A flow that is ahead of the disk is seen once in a while, as a socket's back-pressure would.
        while number % 64 == 0, !store.contains(name(number)) {
          waits += 1
          try? await Task.sleep(for: .milliseconds(2))
          store.put(name(number), octets(number, of: bytes), sharedWith: nil)
        }
      }
      return "dropped \(store.figures.dropped), waits \(waits)"
    }
    await timed("until all is in the kernel", octets: 0) {
      await store.settle()
      return ""
    }
    await timed("put again what was dropped", octets: 0) {
      while store.figures.chunks < chunks {
        for number in 0..<chunks where !store.contains(name(number)) { store.put(name(number), octets(number, of: bytes), sharedWith: nil) }
        await store.settle()
      }
      return "chunks \(store.figures.chunks)"
    }
    print("memory: \((residentOctets() - before) / chunks) octets a chunk resident, \(store.indexOctets / chunks) in the index")
    for round in 1...2 {
      await timed("take, from the page cache, round \(round)", octets: total) {
        var missing = 0
        for number in 0..<chunks where store.take(name(number)) == nil { missing += 1 }
        return "missing \(missing)"
      }
    }
    await timed("put of chunks that are there", octets: total) {
      for number in 0..<chunks { store.put(name(number), octets(number, of: bytes), sharedWith: nil) }
      return ""
    }
    await timed("close, with a checkpoint", octets: 0) {
      await store.close()
      return ""
    }
    await timed("open with the checkpoint", octets: 0) {
      store = open(capacity)
      return "chunks \(store.figures.chunks)"
    }
    await store.close()
    try? FileManager.default.removeItem(atPath: "\(arguments[2])/checkpoint")
    await timed("open without, until all is scanned", octets: 0) {
      store = open(capacity)
      await store.settle()
      return "chunks \(store.figures.chunks)"
    }
    await store.close()
  }
}
