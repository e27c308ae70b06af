import ChunkStores
import Foundation
import StoreSamples
import Testing

@Suite("The folder of a chunk store", .timeLimit(.minutes(2)))
struct FolderTests {
  static func refusal(_ folder: TemporaryFolder) -> String? {
    do {
      _ = try folder.open(capacity: 1 << 20)
      return nil
    } catch { return "\(error)" }
  }

  @Test("is held by one process at a time")
  func held() async throws {
    let folder = try TemporaryFolder()
    try await folder.with(capacity: 1 << 20) { _ in
      #expect(Self.refusal(folder)?.contains("is in use by another process") == true)
    }
    try await folder.with(capacity: 1 << 20) { _ in }
  }

  @Test("is refused if other things are in it, and they stay")
  func foreign() throws {
    let folder = try TemporaryFolder()
    try FileManager.default.createDirectory(atPath: folder.path, withIntermediateDirectories: false)
    try folder.write(Data([1]), to: "letter.txt")
    #expect(Self.refusal(folder)?.contains("letter.txt") == true)
    #expect(folder.files.contains("letter.txt"))
  }

  @Test(
    "of another format is refused, with both versions in the line; a damaged one too",
    arguments: ["longhaul chunk store, format 9\n", "", "\0"])
  func format(text: String) throws {
    let folder = try TemporaryFolder()
    try FileManager.default.createDirectory(atPath: folder.path, withIntermediateDirectories: false)
    try folder.write(Data(text.utf8), to: "format")
    let line = try #require(Self.refusal(folder))
    #expect(line.contains("format 1") && line.contains("delete this one"))
    if !text.isEmpty, text != "\0" { #expect(line.contains("format 9")) }
    #expect(!line.contains("\n"))
  }

  @Test("that cannot be made says why in one line")
  func unmakeable() throws {
    #expect(throws: ChunkStoreError.self) {
      try DiskChunkStore(folder: "/proc/no/such/folder", capacity: 1 << 20, logger: TemporaryFolder().log.logger())
    }
  }

  @Test(
    "on a disk that is full, and full again: right octets, a line, and the newest chunks are kept",
    .enabled(if: TemporaryDisk.isAllowed, "needs root, to mount a tmpfs"))
  func full() async throws {
    let disk = try TemporaryDisk(octets: 3 << 20)
    let folder = try TemporaryFolder(inside: disk.path)
    try await folder.with(capacity: 64 << 20) { store in
      await DiskStoreTests.fill(store, 0..<600)
      #expect(folder.logged("cannot be written: No space left on device") == 1)
      #expect(store.figures.dropped > 0)
      #expect(store.figures.chunks > 50)
      #expect(DiskStoreTests.right(0..<600, in: store) == store.figures.chunks)
      // Refused for a while, without a word and without a wait.
      let before = store.figures
      await DiskStoreTests.fill(store, 600..<650)
      #expect(store.figures.dropped == before.dropped + 50)
      #expect(store.figures.chunks == before.chunks)
    }
    // Opened again it goes on with the room that there is.
    try await folder.with(capacity: 64 << 20) { store in
      await store.settle()
      #expect(DiskStoreTests.right(0..<600, in: store) == store.figures.chunks)
      await DiskStoreTests.fill(store, 700..<720)
      #expect(DiskStoreTests.right(700..<720, in: store) == 20)
    }
  }

  @Test("a program that is killed in the middle of writing loses nothing that was on disk, time after time")
  func killed() async throws {
    let program = try #require(StoreProgram.path, "StoreProbe is not beside the tests")
    let folder = try TemporaryFolder()
    var first = 0
    for round in 1...4 {
      let written = try StoreProgram.writeAndKill(program, folder: folder.path, capacity: 256 << 20, first: first, lines: round * 3)
      #expect(written > first)
      try await folder.with(capacity: 256 << 20) { store in
        await store.settle()
        #expect(DiskStoreTests.right(0..<written, in: store) == written, "after kill \(round)")
        // What was under way: whole or not there.
        _ = DiskStoreTests.right(written..<(written + 500), in: store)
        let slot = store.slot(of: "peer", store: 7)
        #expect((0..<written).count { store.isShared(Sample($0).name, with: slot) } == written)
        #expect(store.figures.damaged == 0)
      }
      first = written
    }
  }
}
