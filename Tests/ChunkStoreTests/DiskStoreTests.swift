import ChunkStores
import Dedup
import Foundation
import NIOCore
import NIOPosix
import StoreSamples
import Testing
import Vocabulary

@Suite("A chunk store on disk", .timeLimit(.minutes(2)))
struct DiskStoreTests {
  static let capacity = 64 << 20

  /// How many of these chunks a store gives out; none of them may be wrong.
  static func right(_ numbers: some Sequence<Int>, in store: DiskChunkStore) -> Int {
    numbers.count { number in
      let sample = Sample(number)
      guard let bytes = store.take(sample.name) else { return false }
      #expect(bytes == sample.bytes, "chunk \(number) is not what was put")
      return bytes == sample.bytes
    }
  }

  static func fill(_ store: DiskChunkStore, _ numbers: Range<Int>, sharedWith peer: PeerSlot? = nil) async {
    for number in numbers { store.put(Sample(number).name, Sample(number).bytes, sharedWith: peer) }
    await store.settle()
  }

  @Test("is warm when it is opened again: chunks, identity, and what is believed of peers")
  func reopened() async throws {
    let folder = try TemporaryFolder()
    let (identity, slot) = try await folder.with(capacity: Self.capacity) { store in
      let slot = store.slot(of: "peer", store: 7)
      await Self.fill(store, 0..<300, sharedWith: slot)
      // News after they were written: they are in the checkpoint alone.
      let other = store.slot(of: "other peer", store: 8)
      for number in 0..<100 { store.put(Sample(number).name, Sample(number).bytes, sharedWith: other) }
      store.forget(Sample(5).name, of: slot)
      return (store.identity, slot)
    }
    try await folder.with(capacity: Self.capacity) { store in
      await store.settle()
      #expect(store.identity == identity)
      #expect(store.figures.chunks == 300)
      #expect(Self.right(0..<300, in: store) == 300)
      #expect(store.slot(of: "peer", store: 7) == slot)
      let other = store.slot(of: "other peer", store: 8)
      #expect((0..<300).count { store.isShared(Sample($0).name, with: slot) } == 299)
      #expect((0..<300).count { store.isShared(Sample($0).name, with: other) } == 100)
      #expect(store.recent(10).count == 10)
    }
    #expect(folder.logged("warning") == 0)
  }

  @Test("is warm after a kill, which leaves no checkpoint; and what has been put to disk is all there")
  func killed() async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: Self.capacity) { store in
      let slot = store.slot(of: "peer", store: 7)
      await Self.fill(store, 0..<300, sharedWith: slot)
      let copy = try folder.copy()
      #expect(!copy.files.contains("checkpoint"))
      try await copy.with(capacity: Self.capacity) { store in
        await store.settle()
        #expect(Self.right(0..<300, in: store) == 300)
        let slot = store.slot(of: "peer", store: 7)
        #expect((0..<300).count { store.isShared(Sample($0).name, with: slot) } == 300)
      }
    }
  }

  @Test("is never wrong after a copy that was taken at any moment while it was written")
  func copies() async throws {
    let folder = try TemporaryFolder()
    // Small, so that segments come and go under the copies.
    try await folder.with(capacity: 4 << 20) { store in
      let writing = Task {
        var number = 0
        while !Task.isCancelled {
          store.put(Sample(number).name, Sample(number).bytes, sharedWith: nil)
          _ = store.take(Sample(number / 2).name)
          number += 1
          if number % 50 == 0 { await store.settle() }
        }
        return number
      }
      var copies: [TemporaryFolder] = []
      while store.figures.chunks < 100 { await Task.yield() }
      for _ in 0..<12 { copies.append(try folder.copy()) }
      writing.cancel()
      let count = await writing.value
      for copy in copies {
        try await copy.with(capacity: 4 << 20) { store in
          await store.settle()
          _ = Self.right(0..<count, in: store)
        }
      }
      #expect(store.figures.damaged == 0)
    }
  }

  @Test("a segment that was cut short anywhere loses its last chunks, says so, and goes on", arguments: [1, 2, 3])
  func cut(seed: Int) async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: Self.capacity) { await Self.fill($0, 0..<100) }
    let segment = try #require(folder.segments.last)
    var generator = SeededGenerator(seed: UInt64(seed))
    let length = Int.random(in: 1..<folder.octets(of: segment), using: &generator)
    try folder.write(try folder.data(of: segment).prefix(length), to: segment)
    try? FileManager.default.removeItem(atPath: "\(folder.path)/checkpoint")
    try await folder.with(capacity: Self.capacity) { store in
      await store.settle()
      let before = store.figures.chunks
      #expect(before < 100)
      #expect(Self.right(0..<100, in: store) == before)
      #expect(folder.logged("cut off") == 1)
      #expect(folder.octets(of: segment) <= length)
      await Self.fill(store, 0..<100)
      #expect(Self.right(0..<100, in: store) == 100)
    }
  }

  @Test("a checkpoint that knows more than the segments have is believed only as far as they reach")
  func cutUnderCheckpoint() async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: Self.capacity) { await Self.fill($0, 0..<100) }
    let segment = try #require(folder.segments.first)
    try folder.write(try folder.data(of: segment).prefix(folder.octets(of: segment) / 2), to: segment)
    try await folder.with(capacity: Self.capacity) { store in
      await store.settle()
      #expect(Self.right(0..<100, in: store) == store.figures.chunks)
      #expect(store.figures.damaged == 0)
      await Self.fill(store, 0..<100)
      #expect(Self.right(0..<100, in: store) == 100)
    }
  }

  @Test("bits that flip in segments, checkpoint or list of peers never make a wrong octet", arguments: 1...4)
  func flips(seed: Int) async throws {
    let base = try TemporaryFolder()
    try await base.with(capacity: Self.capacity) { store in
      await Self.fill(store, 0..<100, sharedWith: store.slot(of: "peer", store: 7))
    }
    var generator = SeededGenerator(seed: UInt64(seed))
    var damaged = 0
    for round in 0..<25 {
      let folder = try base.copy()
      let file = try #require((folder.segments + ["checkpoint", "peers"]).randomElement(using: &generator))
      var data = try folder.data(of: file)
      for _ in 0..<Int.random(in: 1...8, using: &generator) {
        data[Int.random(in: 0..<data.count, using: &generator)] ^= 1 << UInt8.random(in: 0..<8, using: &generator)
      }
      try folder.write(data, to: file)
      // Every other time the checkpoint knows nothing, and the damaged segments are scanned.
      if round.isMultiple(of: 2) { try? FileManager.default.removeItem(atPath: "\(folder.path)/checkpoint") }
      try await folder.with(capacity: Self.capacity) { store in
        await store.settle()
        _ = Self.right(0..<100, in: store)
        damaged += store.figures.damaged
        await Self.fill(store, 0..<100)
        #expect(Self.right(0..<100, in: store) == 100, "seed \(seed), round \(round): \(file)")
      }
    }
    #expect(damaged > 0)
  }

  @Test("a chunk that is damaged while the store is open reads as absent, both ways, with one log line for its segment")
  func live() async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: Self.capacity) { store in
      await Self.fill(store, 0..<4)
      let segment = try #require(folder.segments.first)
      let handle = try FileHandle(forUpdating: URL(fileURLWithPath: "\(folder.path)/\(segment)"))
      let data = try folder.data(of: segment)
      for offset in [100, data.count - 100] {
        try handle.seek(toOffset: UInt64(offset))
        try handle.write(contentsOf: [data[offset] ^ 1])
      }
      let loop = MultiThreadedEventLoopGroup.singleton.next()
      let promise = loop.makePromise(of: ByteBuffer?.self)
      store.fetch(Sample(0).name, on: loop) { promise.succeed($0) }
      #expect(try await promise.futureResult.get() == nil)
      #expect(store.take(Sample(3).name) == nil)
      #expect(!store.contains(Sample(0).name))
      #expect(!store.contains(Sample(3).name))
      #expect(store.figures.damaged == 2)
      #expect(Self.right(1...2, in: store) == 2)
      #expect(folder.logged("the byte cache is damaged") == 1)
    }
  }

  @Test("what the page cache has not is fetched from the disk")
  func cold() async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: Self.capacity) { store in
      await Self.fill(store, 0..<50)
      for segment in folder.segments {
        let handle = try FileHandle(forUpdating: URL(fileURLWithPath: "\(folder.path)/\(segment)"))
        try handle.synchronize()
        posix_fadvise(handle.fileDescriptor, 0, 0, POSIX_FADV_DONTNEED)
      }
      let loop = MultiThreadedEventLoopGroup.singleton.next()
      for number in 0..<50 {
        let sample = Sample(number)
        if let bytes = store.take(sample.name) { #expect(bytes == sample.bytes) }
        let promise = loop.makePromise(of: ByteBuffer?.self)
        store.fetch(sample.name, on: loop) { promise.succeed($0) }
        #expect(try await promise.futureResult.get() == sample.bytes)
      }
      #expect(store.figures.misses == 0)
    }
  }

  @Test("a chunk that looks like a record is not taken for one")
  func forged() async throws {
    let folder = try TemporaryFolder()
    let victim = Sample(1, octets: 64)
    var inside = ByteBuffer()
    try await folder.with(capacity: Self.capacity) { store in
      // What another store has written for this name, as octets that anyone may send.
      let other = try TemporaryFolder()
      try await other.with(capacity: Self.capacity) { store in
        store.put(victim.name, ByteBuffer(repeating: 0x66, count: 64), sharedWith: nil)
        await store.settle()
      }
      inside.writeBytes(try other.data(of: #require(other.segments.first)))
      store.put(Sample(2).name, inside, sharedWith: nil)
      await store.settle()
    }
    // The header of the record around it is damaged: a scan that goes on octet by octet finds what is inside.
    let segment = try #require(folder.segments.first)
    var data = try folder.data(of: segment)
    data[0] ^= 1
    try folder.write(data, to: segment)
    try FileManager.default.removeItem(atPath: "\(folder.path)/checkpoint")
    try await folder.with(capacity: Self.capacity) { store in
      await store.settle()
      #expect(store.contains(victim.name), "the scan did not look at the octets that this test is about")
      #expect(store.take(victim.name) == nil)
      #expect(store.figures.damaged == 1)
    }
  }

  @Test("nothing that was believed of a peer's former store comes back with a restart")
  func formerStore() async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: Self.capacity) { store in
      await Self.fill(store, 0..<20, sharedWith: store.slot(of: "peer", store: 1))
    }
    try await folder.with(capacity: Self.capacity) { store in
      await store.settle()
      let slot = store.slot(of: "peer", store: 2)
      await store.settle()
      await Self.fill(store, 20..<30, sharedWith: slot)
      #expect((0..<30).count { store.isShared(Sample($0).name, with: slot) } == 10)
      // Killed: the checkpoint and the older records are of the time before.
      for isScanned in [false, true] {
        let copy = try folder.copy()
        if isScanned { try FileManager.default.removeItem(atPath: "\(copy.path)/checkpoint") }
        try await copy.with(capacity: Self.capacity) { store in
          await store.settle()
          let slot = store.slot(of: "peer", store: 2)
          #expect((0..<30).count { store.isShared(Sample($0).name, with: slot) } == 10)
        }
      }
    }
  }

  @Test("the segments never take more than the capacity, and a smaller capacity is reached when it is opened again")
  func capacity() async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: 4 << 20) { store in
      for start in stride(from: 0, to: 2000, by: 50) {
        await Self.fill(store, start..<(start + 50))
        #expect(folder.segments.map { folder.octets(of: $0) }.reduce(0, +) <= 4 << 20)
      }
      #expect(store.figures.evicted > 500)
      #expect(store.figures.octets > 3 << 20)
    }
    try await folder.with(capacity: 1 << 20) { store in
      await store.settle()
      #expect(folder.segments.map { folder.octets(of: $0) }.reduce(0, +) <= 1 << 20)
      #expect(Self.right(0..<2000, in: store) == store.figures.chunks)
    }
  }

  @Test("the index takes at most 64 octets of memory for a chunk, at any size", arguments: [30_000, 60_000, 100_000, 115_000])
  func memory(chunks: Int) async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: 256 << 20) { store in
      let octet = ByteBuffer(repeating: 1, count: 1)
      var generator = SeededGenerator(seed: 1)
      for number in 0..<chunks {
        let name = ChunkName(high: generator.next(), middle: generator.next(), low: UInt32(truncatingIfNeeded: generator.next()))
        store.put(name, octet, sharedWith: nil)
        if number % 100_000 == 0 { await store.settle() }
      }
      await store.settle()
      #expect(store.figures.chunks == chunks)
      #expect(store.indexOctets <= 64 * chunks)
    }
  }

  @Test("a store that is closed takes nothing more, and still gives out")
  func closed() async throws {
    let folder = try TemporaryFolder()
    let store = try folder.open(capacity: Self.capacity)
    await Self.fill(store, 0..<10)
    await store.close()
    await store.close()
    store.put(Sample(10).name, Sample(10).bytes, sharedWith: nil)
    #expect(!store.contains(Sample(10).name))
    #expect(store.figures.dropped == 1)
    #expect(Self.right(0..<10, in: store) == 10)
  }
}
