import ChunkStores
import Dedup
import StoreSamples
import Testing
import Vocabulary

@Suite("Peer slots")
struct SlotTests {
  @Test("the beliefs about all peers fit a word of 16 bits")
  func width() { #expect(PeerSlot.count <= UInt16.bitWidth) }
}

@Suite("Names beside the store")
struct BookTests {
  @Test("a service's names come back once each, the last used first, and other services have their own")
  func services() throws {
    let book = ServiceBook()
    let (first, second) = (try #require(IPAddress("10.1.0.3")), try #require(IPAddress("10.1.0.4")))
    for number in [1, 2, 3, 1, 4, 2] { book.ring(of: first).note(Sample(number).name) }
    book.ring(of: second).note(Sample(9).name)
    #expect(book.names(of: first, limit: 10) == [2, 4, 1, 3].map { Sample($0).name })
    #expect(book.names(of: first, limit: 2) == [2, 4].map { Sample($0).name })
    #expect(book.names(of: second, limit: 10) == [Sample(9).name])
    #expect(try book.names(of: #require(IPAddress("10.1.0.5")), limit: 10).isEmpty)
  }

  @Test("a ring forgets its oldest names, and the book the service that was longest without a flow")
  func bounds() {
    let book = ServiceBook()
    let ring = book.ring(of: .v4(0))
    for number in 0..<(ServiceRing.capacity + 10) { ring.note(ChunkName(high: UInt64(number), middle: 0, low: 0)) }
    let names = book.names(of: .v4(0), limit: .max)
    #expect(names.count == ServiceRing.capacity)
    #expect(names.last?.high == 10)
    for service in 1..<ServiceBook.services { book.ring(of: .v4(UInt32(service))).note(Sample(service).name) }
    _ = book.ring(of: .v4(0))
    book.ring(of: .v4(1_000)).note(Sample(1).name)
    #expect(book.names(of: .v4(1), limit: 1).isEmpty)
    #expect(book.names(of: .v4(0), limit: 1).count == 1)
  }

  @Test("a store keeps a million names that are not here, and no more", .timeLimit(.minutes(1)))
  func names() {
    let store = MemoryChunkStore(capacity: 1 << 20)
    let slot = store.slot(of: "a", store: 1)
    func name(_ number: Int) -> ChunkName {
      var generator = SeededGenerator(seed: UInt64(number))
      return ChunkName(high: generator.next(), middle: generator.next(), low: 0)
    }
    let count = 1_500_000
    for start in stride(from: 0, to: count, by: 1_000) {
      store.believe(PeerBelief(peer: "a", store: 1, names: (start..<(start + 1_000)).map(name)))
    }
    let kept = (0..<count).count { store.isShared(name($0), with: slot) }
    #expect(kept <= 1 << 20)
    #expect(kept > 900_000)
  }
}
