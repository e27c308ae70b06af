import ChunkStores
import Dedup
import NIOCore
import NIOPosix
import StoreSamples
import Synchronization
import Testing
import Vocabulary

/// What the suite makes stores with: every implementation passes all of it.
enum StoreKind: CaseIterable {
  case memory
  case disk

  /// A store for the time of `body`. `settle` waits until what was put can be put no more: a disk takes its time, and refuses what comes too fast.
  func with(capacity: Int, _ body: (_ store: any ChunkStore, _ settle: () async -> Void) async throws -> Void) async throws {
    switch self {
    case .memory: try await body(MemoryChunkStore(capacity: capacity), {})
    case .disk:
      let folder = try TemporaryFolder()
      try await folder.with(capacity: capacity) { store in try await body(store, { await store.settle() }) }
    }
  }

  /// What waits for the disk is bounded by itself.
  func bound(_ capacity: Int) -> Int { self == .memory ? capacity : capacity + max(capacity / 4, 64 << 10) }
}

@Suite("A chunk store")
struct StoreTests {
  @Test("gives back what was put, and nothing for what was not", arguments: StoreKind.allCases)
  func round(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      for number in 0..<200 { store.put(Sample(number).name, Sample(number).bytes, sharedWith: nil) }
      await settle()
      for number in 0..<200 {
        #expect(store.contains(Sample(number).name))
        #expect(store.take(Sample(number).name) == Sample(number).bytes)
      }
      #expect(!store.contains(Sample(200).name))
      #expect(store.take(Sample(200).name) == nil)
      let figures = store.figures
      #expect(figures.chunks == 200)
      #expect(figures.octets == (0..<200).map { Sample($0).bytes.readableBytes }.reduce(0, +))
      #expect(figures.hits == 200)
      #expect(figures.misses == 1)
      #expect(figures.dropped == 0)
    }
  }

  @Test("a chunk of one octet and one of the largest size are kept; an empty one and a larger one are not", arguments: StoreKind.allCases)
  func sizes(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      for octets in [0, 1, ChunkLimits.maximum, ChunkLimits.maximum + 1] {
        let sample = Sample(octets, octets: octets)
        store.put(sample.name, sample.bytes, sharedWith: nil)
        let isKept = (1...ChunkLimits.maximum).contains(octets)
        #expect(store.take(sample.name) == (isKept ? sample.bytes : nil))
      }
    }
  }

  @Test("what was given out stays as it is, though its holder writes over it", arguments: StoreKind.allCases)
  func copies(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      let sample = Sample(1)
      var mine = sample.bytes
      store.put(sample.name, mine, sharedWith: nil)
      mine.setRepeatingByte(0, count: 100, at: mine.readerIndex)
      var taken = try #require(store.take(sample.name))
      taken.setRepeatingByte(0, count: 100, at: taken.readerIndex)
      #expect(store.take(sample.name) == sample.bytes)
    }
  }

  @Test("a chunk is shared with the peer it was put for, until that peer says that it lacks it", arguments: StoreKind.allCases)
  func sharing(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      let (a, z) = (store.slot(of: "a", store: 1), store.slot(of: "z", store: 2))
      #expect(a != z)
      let sample = Sample(1)
      store.put(sample.name, sample.bytes, sharedWith: nil)
      #expect(!store.isShared(sample.name, with: a))
      store.put(sample.name, sample.bytes, sharedWith: a)
      #expect(store.isShared(sample.name, with: a))
      #expect(!store.isShared(sample.name, with: z))
      store.put(sample.name, sample.bytes, sharedWith: z)
      store.forget(sample.name, of: a)
      #expect(!store.isShared(sample.name, with: a))
      #expect(store.isShared(sample.name, with: z))
      #expect(!store.isShared(Sample(2).name, with: z))
      #expect(store.figures.chunks == 1)
    }
  }

  @Test("nothing is believed of a peer whose store is another one", arguments: StoreKind.allCases)
  func newStore(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      let first = store.slot(of: "a", store: 1)
      let other = store.slot(of: "b", store: 1)
      let sample = Sample(1)
      store.put(sample.name, sample.bytes, sharedWith: first)
      store.put(sample.name, sample.bytes, sharedWith: other)
      #expect(store.slot(of: "a", store: 1) == first)
      #expect(store.isShared(sample.name, with: first))
      let second = store.slot(of: "a", store: 7)
      #expect(!store.isShared(sample.name, with: second))
      #expect(store.isShared(sample.name, with: other))
    }
  }

  @Test("the seventeenth peer takes the place of the one that was longest unused", arguments: StoreKind.allCases)
  func seventeenth(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      let sample = Sample(1)
      let slots = (0..<PeerSlot.count).map { store.slot(of: NodeID("peer-\($0)"), store: 1) }
      #expect(Set(slots).count == PeerSlot.count)
      for slot in slots { store.put(sample.name, sample.bytes, sharedWith: slot) }
      #expect(store.slot(of: "peer-0", store: 1) == slots[0])
      let late = store.slot(of: "late", store: 1)
      #expect(late == slots[1])
      #expect(!store.isShared(sample.name, with: late))
      for slot in slots where slot != late { #expect(store.isShared(sample.name, with: slot)) }
    }
  }

  @Test(
    "what another accelerator says of a peer is believed, also of chunks that are not here, until the peer says otherwise",
    arguments: StoreKind.allCases)
  func hearsay(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      let (a, z) = (store.slot(of: "a", store: 1), store.slot(of: "z", store: 2))
      let names = (0..<3000).map { Sample($0, octets: 8).name }
      store.put(names[0], Sample(0, octets: 8).bytes, sharedWith: z)
      await settle()
      store.believe(PeerBelief(peer: "a", store: 1, names: names))
      #expect(names.allSatisfy { store.isShared($0, with: a) })
      #expect(names.count { store.isShared($0, with: z) } == 1)
      #expect(!store.contains(names[1]) && store.take(names[1]) == nil)
      store.forget(names[0], of: a)
      store.forget(names[1], of: a)
      #expect(names.count { store.isShared($0, with: a) } == 2998)
      // A peer that has not been met yet; and one whose store, by its own word, is another.
      store.believe(PeerBelief(peer: "new", store: 5, names: Array(names[..<10])))
      store.believe(PeerBelief(peer: "a", store: 4, names: names))
      #expect(names.count { store.isShared($0, with: a) } == 2998)
      let new = store.slot(of: "new", store: 5)
      #expect(names.count { store.isShared($0, with: new) } == 10)
      // Another store, and nothing is believed of it.
      let second = store.slot(of: "a", store: 9)
      await settle()
      #expect(names.count { store.isShared($0, with: second) } == 0)
      #expect(store.isShared(names[0], with: z))
    }
  }

  @Test("nobody gives way to a peer that is only spoken of", arguments: StoreKind.allCases)
  func spokenOf(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, _ in
      let slots = (0..<PeerSlot.count).map { store.slot(of: NodeID("peer-\($0)"), store: 1) }
      let sample = Sample(1)
      for slot in slots { store.put(sample.name, sample.bytes, sharedWith: slot) }
      store.believe(PeerBelief(peer: "late", store: 1, names: [Sample(2).name]))
      for slot in slots {
        #expect(store.isShared(sample.name, with: slot))
        #expect(!store.isShared(Sample(2).name, with: slot))
      }
    }
  }

  @Test("tells which peers have which of its chunks", arguments: StoreKind.allCases)
  func telling(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      let (a, z) = (store.slot(of: "a", store: 1), store.slot(of: "z", store: 2))
      let samples = (0..<4).map { Sample($0) }
      for (sample, peer) in zip(samples, [a, z, a, nil]) { store.put(sample.name, sample.bytes, sharedWith: peer) }
      store.put(samples[0].name, samples[0].bytes, sharedWith: z)
      await settle()
      let told = store.beliefs(about: samples.map(\.name) + [Sample(9).name])
      #expect(
        told == [
          PeerBelief(peer: "a", store: 1, names: [samples[0].name, samples[2].name]),
          PeerBelief(peer: "z", store: 2, names: [samples[0].name, samples[1].name]),
        ])
    }
  }

  @Test("an event loop is called back with the chunk, or with nil, and only later", arguments: StoreKind.allCases)
  func fetching(kind: StoreKind) async throws {
    try await kind.with(capacity: 8 << 20) { store, settle in
      let sample = Sample(1)
      store.put(sample.name, sample.bytes, sharedWith: nil)
      await settle()
      let loop = MultiThreadedEventLoopGroup.singleton.next()
      for (name, expected) in [(sample.name, sample.bytes), (Sample(2).name, nil)] {
        let promise = loop.makePromise(of: ByteBuffer?.self)
        let wasLater = try await loop.submit {
          let flag = Flag()
          store.fetch(name, on: loop) { bytes in
            loop.assertInEventLoop()
            flag.set()
            promise.succeed(bytes)
          }
          return !flag.isSet
        }.get()
        #expect(wasLater)
        #expect(try await promise.futureResult.get() == expected)
      }
    }
  }

  @Test("it never holds more than its capacity, and keeps what is used", arguments: StoreKind.allCases)
  func eviction(kind: StoreKind) async throws {
    try await kind.with(capacity: 4 << 20) { store, settle in
      let loved = (0..<20).map { Sample($0, octets: 8192) }
      for sample in loved { store.put(sample.name, sample.bytes, sharedWith: nil) }
      for number in 100..<2100 {
        let sample = Sample(number, octets: 8192)
        store.put(sample.name, sample.bytes, sharedWith: nil)
        if number % 20 == 0 {
          for sample in loved { _ = store.take(sample.name) }
          await settle()
        }
        #expect(store.figures.octets <= kind.bound(4 << 20))
      }
      for sample in loved { #expect(store.take(sample.name) == sample.bytes) }
      #expect(!store.contains(Sample(100).name))
      #expect(store.contains(Sample(2099).name))
      #expect(store.figures.evicted > 1000)
    }
  }

  @Test("the smallest store takes all that comes, holds its bound, and gives out only right octets", arguments: StoreKind.allCases)
  func tiny(kind: StoreKind) async throws {
    try await kind.with(capacity: 64 << 10) { store, settle in
      for number in 0..<2000 {
        let sample = Sample(number)
        store.put(sample.name, sample.bytes, sharedWith: nil)
        let earlier = Sample(number - number % 7)
        if let bytes = store.take(earlier.name) { #expect(bytes == earlier.bytes) }
        #expect(store.figures.octets <= kind.bound(64 << 10))
        if number % 5 == 0 { await settle() }
      }
    }
  }

  @Test("the names that were used last come first", arguments: StoreKind.allCases)
  func recency(kind: StoreKind) async throws {
    try await kind.with(capacity: 16 << 20) { store, settle in
      for number in 0..<1000 { store.put(Sample(number, octets: 4096).name, Sample(number, octets: 4096).bytes, sharedWith: nil) }
      let used = (0..<64).map { Sample($0, octets: 4096).name }
      for name in used { _ = store.take(name) }
      // 16 shards with their own orders: some 64 of the first 160, surely not all of the first 64.
      let recent = store.recent(160)
      #expect(recent.count == 160)
      #expect(Set(recent).count == 160)
      #expect(Set(recent.map(\.name)).isSuperset(of: used))
      #expect(recent.allSatisfy { $0.octets == 4096 })
      #expect(store.recent(5000).count == 1000)
      #expect(store.recent(0).isEmpty)
    }
  }

  @Test("eight threads at once never meet a wrong octet", arguments: StoreKind.allCases)
  func threads(kind: StoreKind) async throws {
    try await kind.with(capacity: 1 << 20) { store, settle in
      let samples = (0..<400).map { Sample($0) }
      let wrong = await withTaskGroup(of: Int.self) { group in
        for task in 0..<8 {
          group.addTask {
            var generator = SeededGenerator(seed: UInt64(task))
            let peer = store.slot(of: NodeID("peer-\(task)"), store: 1)
            var wrong = 0
            for _ in 0..<4000 {
              let sample = samples[Int.random(in: 0..<samples.count, using: &generator)]
              switch Int.random(in: 0..<4, using: &generator) {
              case 0: store.put(sample.name, sample.bytes, sharedWith: peer)
              case 1: _ = store.isShared(sample.name, with: peer)
              case 2: store.forget(sample.name, of: peer)
              default: if let bytes = store.take(sample.name), bytes != sample.bytes { wrong += 1 }
              }
            }
            return wrong
          }
        }
        return await group.reduce(0, +)
      }
      #expect(wrong == 0)
      #expect(store.figures.hits > 0)
      #expect(store.figures.octets <= kind.bound(1 << 20))
    }
  }
}

private final class Flag: Sendable {
  private let value = Mutex(false)
  var isSet: Bool { value.withLock { $0 } }
  func set() { value.withLock { $0 = true } }
}
