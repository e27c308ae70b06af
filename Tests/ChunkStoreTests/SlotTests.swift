import ChunkStores
import Testing

@Suite("Peer slots")
struct SlotTests {
  @Test("the beliefs about all peers fit a word of 16 bits")
  func width() { #expect(PeerSlot.count <= UInt16.bitWidth) }
}
