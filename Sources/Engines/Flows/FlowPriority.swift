/// Which flows go first where they compete.
package enum FlowPriority: UInt8, Sendable, Hashable, CaseIterable {
  case interactive = 0
  case normal = 1
  case bulk = 2
}
