import NIOCore

extension CodedFrame {
  /// The numbers on the wire, in tunnels and in sessions alike; those between are of flows (`FlowFrame.Kind`).
  package enum Kind: UInt8, Sendable {
    case data = 4
    case literal = 8
    case reference, missing, chunk, resolved, lane
  }

  package var kind: Kind {
    switch self {
    case .data: .data
    case .literal: .literal
    case .reference: .reference
    case .missing: .missing
    case .chunk: .chunk
    case .resolved: .resolved
    case .lane: .lane
    }
  }

  /// Reads a whole body; nil if it is malformed.
  package init?(kind: Kind, body: ByteBuffer) {
    switch kind {
    case .data: self = .data(body)
    case .literal: self = .literal(body)
    case .reference: self.init(references: body)
    case .missing: self.init(missing: body)
    case .chunk: self.init(chunk: body)
    case .resolved: self.init(resolved: body)
    case .lane: self.init(lane: body)
    }
  }
}
