import Vocabulary

/// Every wait of a handover has its name and its limit here.
package struct HandoverLimits: Sendable, Hashable {
  /// The first pause before a hypervisor is asked the same again; it doubles ...
  package var firstPoll = TimeSpan.milliseconds(10 as Int64)
  /// ... up to this.
  package var longestPoll = TimeSpan.seconds(1 as Int64)
  /// At GO, when no STOP was seen: how long the source may take to say whether it runs. The destination's word counts after that.
  package var sourceAnswer = TimeSpan.milliseconds(200 as Int64)
  /// Between two GOs to a client that has not moved. Its link is reliable; this is for the links that were lost and came back.
  package var goInterval = TimeSpan.seconds(1 as Int64)
  /// From GO until a client that has not moved is given up (it goes on by itself): 30 GOs.
  package var moveLimit = TimeSpan.seconds(30 as Int64)
  /// Between two orders that keep a tunnel warm, with a fresh look at the path.
  package var warmInterval = TimeSpan.seconds(2 as Int64)
  /// How long one such order holds: three intervals, so that one may be lost.
  package var warmHold = TimeSpan.seconds(6 as Int64)
  /// From the source's completion to the destination's RESUME, before a person is called. The wait goes on.
  package var resumeLimit = TimeSpan.seconds(30 as Int64)
  /// From the source's failure to the source running, before a person is called. The wait goes on.
  package var returnLimit = TimeSpan.seconds(10 as Int64)
  /// At the end: how long the figures of `query-migrate` are waited for.
  package var figuresLimit = TimeSpan.seconds(2 as Int64)
  /// From GO until the source must have shown that it is out of the way; after that the handover ends without a fence.
  package var fenceLimit = TimeSpan.seconds(120 as Int64)

  package init() {}
}
