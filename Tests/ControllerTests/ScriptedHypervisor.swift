import Foundation
import Hypervisors
import NIOCore
import NIOPosix
import Synchronization

/// A QMP server on a unix socket that plays a QEMU: it answers as the test has set it up, and says what the test tells it to.
final class ScriptedHypervisor: Sendable {
  struct Script: Sendable {
    /// `query-status`.
    var status = "running"
    /// `query-migrate`.
    var migration: JSON = [:]
    var capabilities: [String: Bool] = ["xbzrle": true, "events": false, "postcopy-ram": false]
    /// QEMU refuses `migrate-set-capabilities` while a migration runs.
    var refusesCapabilities = false
    /// Accepts, and says nothing: another client has the socket.
    var isSilent = false
    /// Events that frame the answer to `query-status`, in one write with it.
    var before: [String] = []
    var after: [String] = []
    var commands: [JSON] = []
  }

  let path: String
  private let script = Mutex(Script())
  private let running = Mutex<(listener: (any Channel)?, clients: [any Channel])>((nil, []))
  /// The commands that came, by name.
  let commands = Inbox<String>()

  init() { path = NSTemporaryDirectory() + "lh-\(UUID().uuidString.prefix(8)).qmp" }

  var address: QMPAddress { .unix(path) }
  var capabilities: [String: Bool] { script.withLock { $0.capabilities } }
  var received: [JSON] { script.withLock { $0.commands } }

  func set(_ change: (inout Script) -> Void) { script.withLock { change(&$0) } }

  func start() async throws {
    let listener = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton)
      .childChannelInitializer { [self] channel in
        running.withLock { $0.clients.append(channel) }
        return channel.eventLoop.makeCompletedFuture {
          try channel.pipeline.syncOperations.addHandler(QMPServerHandler(hypervisor: self))
        }
      }
      .bind(unixDomainSocketPath: path, cleanupExistingSocketFile: true).get()
    running.withLock { $0.listener = listener }
  }

  /// The process dies: the connections close, and the socket is gone.
  func kill() async throws {
    let (listener, clients) = running.withLock { running in
      defer { running = (nil, []) }
      return running
    }
    try await listener?.close().get()
    unlink(path)
    for client in clients { try? await client.close().get() }
  }

  /// An event with QEMU's time stamp.
  func send(_ name: String, _ data: JSON = .null, stamp: Int64 = 1_700_000_000_000_001) {
    let line = Self.event(name, data, stamp: stamp)
    for client in running.withLock({ $0.clients }) { client.writeAndFlush(ByteBuffer(string: line), promise: nil) }
  }

  /// Until what was sent is with the kernel: loops serve what comes in before what others have asked them to write.
  func flush() async throws {
    for client in running.withLock({ $0.clients }) { try await client.eventLoop.submit {}.get() }
  }

  func sendMigration(_ status: String, stamp: Int64 = 1_700_000_000_000_001) {
    send("MIGRATION", ["status": .string(status)], stamp: stamp)
  }

  static func event(_ name: String, _ data: JSON = .null, stamp: Int64 = 1_700_000_000_000_001) -> String {
    var event: [String: JSON] = [
      "event": .string(name), "timestamp": ["seconds": .integer(stamp / 1_000_000), "microseconds": .integer(stamp % 1_000_000)],
    ]
    if data != .null { event["data"] = data }
    return JSON.object(event).line + "\r\n"
  }

  // MARK: What the handler asks

  var greeting: String? {
    if script.withLock({ $0.isSilent }) { return nil }
    return
      "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"
  }

  func answer(_ command: JSON) -> String {
    let name = command["execute"]?.text ?? "?"
    let text = script.withLock { script -> String in
      script.commands.append(command)
      let id = command["id"] ?? .null
      func give(_ value: JSON) -> String { JSON.object(["return": value, "id": id]).line + "\r\n" }
      func refuse(_ reason: String) -> String {
        JSON.object(["error": ["class": "GenericError", "desc": .string(reason)], "id": id]).line + "\r\n"
      }
      switch name {
      case "qmp_capabilities": return give([:])
      case "query-status":
        let framed =
          script.before.map { Self.event($0) } + [
            give(["status": .string(script.status), "running": .boolean(script.status == "running")])
          ]
        return (framed + script.after.map { Self.event($0) }).joined()
      case "query-migrate": return give(script.migration)
      case "query-migrate-capabilities":
        return give(
          .array(script.capabilities.sorted { $0.key < $1.key }.map { ["capability": .string($0.key), "state": .boolean($0.value)] }))
      case "migrate-set-capabilities":
        if script.refusesCapabilities { return refuse("There's a migration process in progress") }
        for element in command["arguments"]?["capabilities"]?.elements ?? [] {
          if let name = element["capability"]?.text { script.capabilities[name] = element["state"]?.bool }
        }
        return give([:])
      default: return refuse("The command \(name) has not been found")
      }
    }
    commands.add(name)
    return text
  }
}

private final class QMPServerHandler: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer
  typealias OutboundOut = ByteBuffer

  private let hypervisor: ScriptedHypervisor
  private var received = ByteBuffer()

  init(hypervisor: ScriptedHypervisor) { self.hypervisor = hypervisor }

  func channelActive(context: ChannelHandlerContext) {
    if let greeting = hypervisor.greeting { context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: greeting)), promise: nil) }
  }

  func channelRead(context: ChannelHandlerContext, data: NIOAny) {
    var incoming = unwrapInboundIn(data)
    received.writeBuffer(&incoming)
    while let end = received.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) {
      let line = received.readSlice(length: end - received.readerIndex + 1)!
      guard let command = JSON(octets: line.readableBytesView) else { continue }
      context.writeAndFlush(wrapOutboundOut(ByteBuffer(string: hypervisor.answer(command))), promise: nil)
    }
  }
}
