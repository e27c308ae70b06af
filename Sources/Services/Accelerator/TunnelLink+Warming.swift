import Flows
import NIOCore
import Tunnel
import Vocabulary

// The warm-up of a tunnel connection: `WarmUp` says how much padding, this sends it.

extension TunnelLink {
  /// One step writes at most this: 10 ms (`WarmUp.reserve`) x 3.2 Gbit/s / 8.
  static let paddingAtOnce = 4 << 20
  private static let padding = ByteBuffer(repeating: 0, count: TunnelLimits.dataOctets)

  /// Opens this end's sending direction, and keeps it open while the hold lasts.
  func warm(_ request: WarmRequest) {
    guard isEstablished else { return }
    if warmUp == nil {
      warmUp = WarmUp(request, at: TunnelLink.now())
      stepWarmUp()
    } else {
      warmUp?.extend(request, at: TunnelLink.now())
    }
  }

  /// Asks the peer to do the same.
  func askToWarm(_ request: WarmRequest) {
    guard isEstablished else { return }
    say(.warm(request))
  }

  private func stepWarmUp() {
    warmTask = nil
    guard var warmUp, let context, !isClosed else { return }
    watchLosses()
    let state = TCPSocket.state(context.channel)
    let buffered = bufferedOctets
    // What is behind a lost segment of padding waits a round trip for it: where segments are lost, padding keeps away from flows.
    let disturbs = flowCount > 0 && (state?.isLosing ?? false)
    let reading = WarmUp.Reading(
      delivered: state?.acknowledged ?? 0, congestionWindow: state?.congestionWindow ?? 0, peerWindow: state?.peerWindow ?? 0,
      inFlight: (state?.unacknowledged ?? 0) * (state?.segmentOctets ?? 0), unsent: (state?.unsent ?? 0) + buffered,
      isBusy: group?.isBusy == true || hub?.isStarved == true || disturbs)
    // Without a rate limit of its own a connection that opens its window could overrun the path: padding at least keeps to the path's rate.
    let step = warmUp.step(reading, at: TunnelLink.now())
    self.warmUp = warmUp
    if group?.isLimited != true { setPacing(warmUp.isOpening ? warmUp.request.rate : nil) }
    switch step {
    case .pad(let octets, let again):
      if octets > 0, context.channel.isWritable { pad(min(octets, TunnelLink.paddingAtOnce), context) }
      scheduleWarmUp(again)
    case .opened(let window, let isFull, let again):
      setup.logger.debug(
        "tunnel connection warm", metadata: ["peer": "\(peer?.node.text ?? "")", "window": "\(window)", "full": "\(isFull)"])
      scheduleWarmUp(again)
      events.opened(self, window, isFull)
    case .over: self.warmUp = nil
    }
  }

  private func scheduleWarmUp(_ at: Instant) {
    warmTask = loop.assumeIsolated().scheduleTask(deadline: .uptimeNanoseconds(UInt64(max(at.nanoseconds, 0)))) { [weak self] in
      self?.stepWarmUp()
    }
  }

  private func pad(_ octets: Int, _ context: ChannelHandlerContext) {
    var left = octets
    group?.notePadding()
    while left > 0, let payload = TunnelLink.padding.getSlice(at: 0, length: min(left, TunnelLimits.dataOctets)) {
      write(.pad, payload, of: FlowID(0), context)
      left -= payload.readableBytes
    }
    context.flush()
  }
}
