/// What can be fuzzed, by name. Each takes any octets, and traps if something is wrong.
package let fuzzTargets: [(name: String, run: @Sendable ([UInt8]) -> Void)] = [
  ("packet", PacketTarget.run),
  ("association", AssociationTarget.run),
  ("pair", PairTarget.run),
  ("flows", FlowTarget.run),
  ("tunnel", TunnelTarget.run),
  ("chunks", ChunkTarget.run),
]
