import Dedup
import Synchronization
import Vocabulary

/// Which chunks the flows of each service (a machine's address) have used last: what a cache elsewhere should hear of before the machine moves there.
///
/// In memory alone. A flow asks for its service's ring once and notes its chunks there; after a restart a machine's chunks are those of the store that were used last.
package final class ServiceBook: Sendable {
  /// Services; the one that was longest without a new flow gives way. 32 rings take at most 84 MB.
  package static let services = 32

  private struct Rings {
    var rings: [IPAddress: ServiceRing] = [:]
    /// The last to have had a new flow is last.
    var order: [IPAddress] = []
  }

  private let rings = Mutex(Rings())

  package init() {}

  package func ring(of service: IPAddress) -> ServiceRing {
    rings.withLock { rings in
      rings.order.removeAll { $0 == service }
      rings.order.append(service)
      if let ring = rings.rings[service] { return ring }
      let ring = ServiceRing()
      rings.rings[service] = ring
      if rings.order.count > ServiceBook.services { rings.rings[rings.order.removeFirst()] = nil }
      return ring
    }
  }

  /// The last used first; each once. Empty for a service that nothing is known of.
  package func names(of service: IPAddress, limit: Int) -> [ChunkName] {
    rings.withLock { $0.rings[service] }?.recent(limit) ?? []
  }
}

/// The chunks of one service in the order of their use.
package final class ServiceRing: Sendable {
  /// 1 GiB of chunks in 2.6 MB, taken as they come.
  package static let capacity = 1 << 17

  private struct Ring {
    var names: [ChunkName] = []
    var next = 0
  }

  private let ring = Mutex(Ring())

  package func note(_ name: ChunkName) {
    ring.withLock { ring in
      if ring.names.count < ServiceRing.capacity { ring.names.append(name) } else { ring.names[ring.next] = name }
      ring.next = (ring.next + 1) % ServiceRing.capacity
    }
  }

  func recent(_ limit: Int) -> [ChunkName] {
    let (names, next) = ring.withLock { ($0.names, $0.next) }
    var found: [ChunkName] = []
    var seen: Set<ChunkName> = []
    for step in 0..<names.count where found.count < limit {
      let name = names[(next - 1 - step + names.count) % names.count]
      if seen.insert(name).inserted { found.append(name) }
    }
    return found
  }
}
