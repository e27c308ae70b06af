/// What a correct peer does not do. The flow ends; the text says what it was.
package enum ChunkViolation: Error, Sendable, Hashable, CustomStringConvertible {
  case unknownLane(UInt16)
  case laneOverrun(UInt16)
  case tooMuchPending(limit: Int)
  case wrongLength(ChunkReference)
  case insideChunk
  case insideStructure
  case insideCiphertext
  case unknownOrdinal(UInt32)
  case askedTwice(UInt32)
  case notAskedFor(UInt32)
  case otherLength(ChunkReference, octets: Int)
  case otherName(ChunkReference)
  case resolvedTooMany(UInt32, underWay: Int)
  case endsInside(lane: UInt16)

  package var description: String {
    switch self {
    case .unknownLane(let lane): "a LANE \(lane) that this flow does not have"
    case .laneOverrun(let lane): "more octets on lane \(lane) than lane 0 has announced"
    case .tooMuchPending(let limit): "more than \(limit) octets before the first of them could be passed on"
    case .wrongLength(let reference): "a REFERENCE to a chunk of \(reference.octets) octets"
    case .insideChunk: "a REFERENCE inside a chunk"
    case .insideStructure: "a REFERENCE among a carrier's headers"
    case .insideCiphertext: "a REFERENCE in a flow that is ciphertext"
    case .unknownOrdinal(let ordinal): "reference \(ordinal) is not under way"
    case .askedTwice(let ordinal): "a second MISSING for reference \(ordinal)"
    case .notAskedFor(let ordinal): "a CHUNK for reference \(ordinal), which nobody asked for"
    case .otherLength(let reference, let octets): "\(octets) octets for a chunk of \(reference.octets)"
    case .otherName(let reference): "a CHUNK whose octets do not have the name \(reference.name)"
    case .resolvedTooMany(let count, let underWay): "RESOLVED up to \(count) with \(underWay) references under way"
    case .endsInside(let lane): "the flow ends before the octets of lane \(lane) that lane 0 has announced"
    }
  }
}
