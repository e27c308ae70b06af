/// Identifiers that rest: an SCTP stream that carried one flow begins anew (RFC 6525) before it carries the next, so that neither end keeps anything of a flow that has gone.
///
/// The opener has its direction reset when a flow has closed; the acceptor does the same when it hears of that, since everything of the flow has arrived by then;
/// when both directions are done the identifier is free. Each identifier is in one place: a flow, `toReset`, with the association, `halfReset`, or free.
extension FlowTable {
  package var hasChannelsToReset: Bool { !toReset.isEmpty }

  /// Identifiers whose outgoing channel is to begin anew, once the frames that stand before them have been handed over.
  package mutating func takeChannelsToReset() -> [FlowID] {
    defer { toReset.removeAll(keepingCapacity: toReset.count < 1_024) }
    return toReset
  }

  /// Our direction of these has begun anew.
  package mutating func channelsReset(outgoing ids: [FlowID]) { for id in ids where role == .opener { half(id) } }

  /// The peer's direction of these has begun anew.
  package mutating func channelsReset(incoming ids: [FlowID]) throws(FlowViolation) {
    for id in ids {
      guard identifiers.contains(id.value) else { throw .identifierOutOfRange(id) }
      guard !contains(id) else { throw .channelOfOpenFlowReset(id) }
      if role == .opener { half(id) } else { toReset.append(id) }
    }
  }

  /// The peer cannot reset channels, or would not. What a channel still carries of the old flow comes before the answer to the next OPEN, so it may be used as it is.
  package mutating func reuseWithoutReset(_ ids: [FlowID]) {
    guard role == .opener else { return }
    for id in ids {
      halfReset.remove(id)
      free(id)
    }
  }

  private mutating func half(_ id: FlowID) { if halfReset.remove(id) == nil { halfReset.insert(id) } else { free(id) } }
}
