import Certificates
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore

/// An HTTP connection of the API inside TLS 1.3, with certificates on both sides; whoever has none of ours never gets as far as HTTP.
struct SecuredChannel<Base: ServerChildChannel>: ServerChildChannel {
  /// Who may speak to a controller at all. What each may ask is `AccessMiddleware`'s to say.
  static var admitted: PeerExpectation { PeerExpectation([.agent, .client, .accelerator, .operator]) }

  let base: Base
  let identity: IdentityKeeper
  /// The controller's; what the framework hands over is silenced.
  let log: Logger

  func setup(channel: any Channel, logger: Logger) -> EventLoopFuture<Base.Value> {
    channel.eventLoop.makeCompletedFuture {
      let pipeline = channel.pipeline.syncOperations
      try identity.current.secure(pipeline, as: .server, expecting: Self.admitted)
      try pipeline.addHandler(RefusalLog(logger: log, remote: channel.remoteAddress?.description ?? "unknown"))
    }.flatMap { base.setup(channel: channel, logger: logger) }
  }

  func handle(value: Base.Value, logger: Logger) async { await base.handle(value: value, logger: logger) }
}

/// Tells the controller's log why a connection was refused in TLS.
private final class RefusalLog: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  private let logger: Logger
  private let remote: String
  private var isAdmitted = false

  init(logger: Logger, remote: String) {
    self.logger = logger
    self.remote = remote
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if event is PeerAdmitted { isAdmitted = true }
    context.fireUserInboundEventTriggered(event)
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    guard error is CertificateError else { return context.fireErrorCaught(error) }
    // Who has been admitted and leaves without a word is a command that has its answer.
    logger.log(level: isAdmitted ? .debug : .warning, "connection refused: \(error)", metadata: ["remote": "\(remote)"])
  }
}
