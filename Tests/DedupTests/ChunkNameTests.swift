import Dedup
import Testing

@Suite("Chunk names")
struct ChunkNameTests {
  @Test("a name is printed as its 40 hexadecimal digits")
  func printed() {
    #expect("\(ChunkName(high: 1, middle: 0xab, low: 2))" == "000000000000000100000000000000ab00000002")
  }
}
