import Flows

/// Why a flow did not go through a tunnel.
package enum PassReason: String, Sendable, CaseIterable {
  case noRoute = "no route"
  case peerAway = "peer away"
  case peerFull = "peer full"
  case draining = "draining"
  case tooManyWaiting = "too many waiting"

  /// What an application is told where such a flow may not go directly.
  var refusal: FlowRefusal {
    switch self {
    case .noRoute, .peerAway, .draining: .lost
    case .peerFull, .tooManyWaiting: .tooManyFlows
    }
  }
}

/// How many flows did not go through a tunnel since the start, by reason.
package struct PassedThrough: Sendable, Hashable {
  private var counts = [Int](repeating: 0, count: PassReason.allCases.count)
  /// Of them, those that were refused and did not go directly.
  package private(set) var refused = 0

  package subscript(reason: PassReason) -> Int { PassReason.allCases.firstIndex(of: reason).map { counts[$0] } ?? 0 }
  package var total: Int { counts.reduce(0, +) }

  mutating func note(_ reason: PassReason, isRefused: Bool) {
    if let index = PassReason.allCases.firstIndex(of: reason) { counts[index] += 1 }
    if isRefused { refused += 1 }
  }

  static func += (a: inout PassedThrough, b: PassedThrough) {
    for index in a.counts.indices { a.counts[index] += b.counts[index] }
    a.refused += b.refused
  }
}
