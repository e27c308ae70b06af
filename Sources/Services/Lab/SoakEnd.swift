import NIOCore
import NIOPosix
import Relay
import Vocabulary

/// One end of a connection of the soak, the client's or the server's. The only handler of its channel.
final class SoakEnd: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  enum Role: Sendable {
    /// With what it asks the accelerator for; without a target it is connected to the server.
    case client(SoakPlan, target: Endpoint?)
    case server(seed: UInt64, longestSeconds: Double)

    var isClient: Bool {
      if case .client = self { return true }
      return false
    }
  }

  private enum State {
    /// The client's: until the accelerator has answered; the server's: until the number is there.
    case awaitingHead(ByteBuffer)
    case running
    case over
  }

  /// What is written in one call.
  private static let chunk = 64 << 10
  private static let longestHead = 4_096

  private let role: Role
  private let ledger: SoakLedger
  private let began = SoakEnd.now()
  private var state = State.awaitingHead(ByteBuffer())
  private var plan: SoakPlan?
  private var context: ChannelHandlerContext?
  private var outgoing = SoakContents(seed: 0, isText: false)
  private var incoming = SoakContents(seed: 0, isText: false)
  private var sent = 0
  private var toSend = 0
  private var piecesLeft = 0
  private var received = 0
  private var toReceive = 0
  private var hasSentAll = false
  private var hasReceivedEnd = false
  private var hasStopped = false

  init(_ role: Role, _ ledger: SoakLedger) {
    self.role = role
    self.ledger = ledger
    if case .server = role { ledger.serverBegan() }
  }

  static func now() -> Instant { Instant(nanoseconds: Int64(NIODeadline.now().uptimeNanoseconds)) }

  func channelActive(context: ChannelHandlerContext) {
    self.context = context
    if case .client(let plan, let target) = role {
      guard let target else { return begin(plan, with: ByteBuffer()) }
      context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: "CONNECT \(target) HTTP/1.1\r\nHost: \(target)\r\n\r\n")), promise: nil)
    }
  }

  // MARK: What comes

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    let bytes = unwrapInboundIn(data)
    switch state {
    case .awaitingHead(var head):
      head.writeImmutableBuffer(bytes)
      state = .awaitingHead(head)
      readHead(head)
    case .running: take(bytes)
    case .over: break
    }
  }

  private func readHead(_ head: ByteBuffer) {
    var head = head
    switch role {
    case .client(let plan, _):
      guard let end = head.readableBytesView.firstRange(of: Array("\r\n\r\n".utf8))?.upperBound else {
        if head.readableBytes > SoakEnd.longestHead { finish(.wrong, "an answer to CONNECT that does not end") }
        return
      }
      let answer = head.readString(length: end - head.readerIndex) ?? ""
      guard answer.hasPrefix("HTTP/1.1 200") else { return finish(.refused, String(answer.prefix { $0 != "\r" })) }
      begin(plan, with: head)
    case .server(let seed, let longest):
      guard let number: UInt64 = head.readInteger() else { return }
      begin(SoakPlan(number: number, seed: seed, longestSeconds: longest), with: head)
    }
  }

  private func begin(_ plan: SoakPlan, with rest: ByteBuffer) {
    self.plan = plan
    state = .running
    (toSend, toReceive) = role.isClient ? (plan.up, plan.down) : (plan.down, plan.up)
    (outgoing, incoming) = role.isClient ? (plan.upContents, plan.downContents) : (plan.downContents, plan.upContents)
    piecesLeft = plan.pieces
    if role.isClient {
      ledger.runs(plan.number, at: SoakEnd.now())
      context?.write(wrapOutboundOut(ByteBuffer(integer: plan.number)), promise: nil)
      if plan.ending == .halfClosedEarly { piecesLeft = 1 }
    }
    // Before anything is sent: a send that meets a RST makes the channel read what is left.
    if rest.readableBytes > 0 { take(rest) }
    sendPiece()
    checkMarks()
  }

  private func take(_ bytes: ByteBuffer) {
    guard case .running = state else { return }
    guard received + bytes.readableBytes <= toReceive else {
      return finish(.wrong, "\(received + bytes.readableBytes - toReceive) octets more than the \(toReceive) that were to come")
    }
    guard incoming.matches(bytes) else { return finish(.wrong, "within \(bytes.readableBytes) octets behind the first \(received)") }
    received += bytes.readableBytes
    checkMarks()
  }

  /// What the plan has at certain places of what comes.
  private func checkMarks() {
    guard role.isClient, let plan, let context, case .running = state else { return }
    switch plan.ending {
    case .clientAborts(let after) where received >= after: abort()
    case .clientStops(let after, let milliseconds) where received >= after && !hasStopped:
      hasStopped = true
      context.channel.setOption(.autoRead, value: false).assumeIsolated().whenSuccess { [self] in
        context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) { [self] in
          guard case .running = state else { return }
          context.channel.setOption(.autoRead, value: true).assumeIsolated().whenSuccess { context.read() }
        }
      }
    default: break
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    guard case ChannelEvent.inputClosed? = event as? ChannelEvent else { return }
    switch state {
    case .awaitingHead: finish(.refused, "a FIN before the head")
    case .running:
      guard received == toReceive else { return finish(.cutShort, "\(received) of \(toReceive) octets") }
      hasReceivedEnd = true
      finishIfWhole()
    case .over: break
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    finish(endingOfReset, "\(error), after \(received) of \(toReceive) octets")
  }

  /// Where our direction is closed, a FIN closes the channel without further ado; a RST is told as an error, unless it is met while writing.
  func channelInactive(context: ChannelHandlerContext) {
    guard hasSentAll else { return finish(endingOfReset, "closed after \(received) of \(toReceive) octets") }
    finish(received == toReceive ? .whole : .cutShort, "\(received) of \(toReceive) octets")
  }

  /// A RST is right where the plan has one.
  private var endingOfReset: SoakLedger.Ending {
    guard let plan else {
      // The number may not have come before the client aborted.
      return role.isClient ? .refused : .asPlanned
    }
    switch plan.ending {
    case .clientAborts: return .asPlanned
    case .serverAborts: return .asPlanned
    case .whole, .halfClosedEarly, .clientStops: return .reset
    }
  }

  // MARK: What goes out

  private func sendPiece() {
    guard case .running = state, let context, let plan, !hasSentAll else { return }
    piecesLeft -= 1
    var octets = piecesLeft <= 0 ? toSend - sent : toSend / plan.pieces
    if !role.isClient, case .serverAborts(let after) = plan.ending {
      octets = min(octets, after - sent)
      if octets <= 0 || sent + octets >= after {
        write(octets, context)
        return abort()
      }
    }
    write(octets, context)
    if piecesLeft > 0 {
      context.eventLoop.assumeIsolated().scheduleTask(in: .milliseconds(plan.pauseMilliseconds)) { [weak self] in self?.sendPiece() }
      return
    }
    // Closing drops what has not been written yet.
    context.writeAndFlush(wrapOutboundOut(ByteBuffer())).assumeIsolated().whenSuccess { [self] in
      guard case .running = state else { return }
      hasSentAll = true
      context.close(mode: .output, promise: nil)
      finishIfWhole()
    }
  }

  private func write(_ octets: Int, _ context: ChannelHandlerContext) {
    var left = octets
    while left > 0 {
      let count = min(left, SoakEnd.chunk)
      var buffer = context.channel.allocator.buffer(capacity: count)
      outgoing.write(count, to: &buffer)
      context.write(wrapOutboundOut(buffer), promise: nil)
      left -= count
    }
    sent += octets
    context.flush()
  }

  // MARK: Ends

  private func abort() {
    guard let context, case .running = state else { return }
    tell(.asPlanned, "")
    SocketRelay.abort(context.channel)
  }

  private func finishIfWhole() {
    guard hasSentAll, hasReceivedEnd else { return }
    finish(.whole, "")
  }

  private func finish(_ ending: SoakLedger.Ending, _ detail: @autoclosure () -> String) {
    if case .over = state { return }
    let channel = context?.channel
    tell(ending, detail())
    channel?.close(promise: nil)
  }

  private func tell(_ ending: SoakLedger.Ending, _ detail: @autoclosure () -> String) {
    state = .over
    context = nil
    ledger.carried(received)
    switch role {
    case .client(let plan, _): ledger.ended(plan.number, ending, "\(detail()); \(plan)", at: SoakEnd.now())
    case .server:
      ledger.serverEnded(
        plan?.number, began: began, ending, "\(detail()); \(plan.map { "\($0)" } ?? "no number")", at: SoakEnd.now())
    }
  }
}
