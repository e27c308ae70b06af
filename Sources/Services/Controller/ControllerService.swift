import Authentication
import Certificates
import Hummingbird
import HummingbirdCore
import HummingbirdCore
import Hypervisors
import Logging
import NIOCore
import NIOPosix
import Vocabulary

#if canImport(Glibc)
  import Glibc
#elseif canImport(Musl)
  import Musl
#endif

/// The controller: a watcher for each place of each machine, the core that they feed, and the API.
package final class ControllerService: Sendable {
  package typealias WatcherFactory = @Sendable (MachineID, ControllerSettings.Place) -> any HypervisorWatcher

  private let settings: ControllerSettings
  private let makeWatcher: WatcherFactory
  private let logger: Logger

  /// `makeWatcher` is for tests; without it hypervisors are watched over QMP.
  package init(settings: ControllerSettings, makeWatcher: WatcherFactory? = nil, logger: Logger) {
    self.settings = settings
    self.makeWatcher = makeWatcher ?? { _, place in QMPWatcher(site: place.site, address: place.hypervisor, logger: logger) }
    self.logger = logger
  }

  /// Runs until its task is cancelled. `ready` is called with the API's address once it listens.
  package func run(ready: (@Sendable (Endpoint) -> Void)? = nil) async throws {
    let key = try settings.keyFile.map { try EndpointKey(contentsOf: $0) }
    let identity = try settings.certificates.map { try IdentityKeeper(directory: $0) }
    if let name = identity?.current.name, name.role != .controller { throw ControllerError.anotherCertificate(name) }
    var watchers: [MachineID: [SiteID: any HypervisorWatcher]] = [:]
    for machine in settings.machines {
      for place in machine.places { watchers[machine.name, default: [:]][place.site] = makeWatcher(machine.name, place) }
    }
    let core = ControllerCore(settings: settings, key: key, identity: identity, watchers: watchers, logger: logger)
    let app = application(core: core, key: key, identity: identity, ready: ready)
    let listen = settings.listen
    try await withThrowingTaskGroup(of: Void.self) { group in
      for (machine, watcher) in watchers.flatMap({ entry in entry.value.values.map { (entry.key, $0) } }) {
        group.addTask { await watcher.run() }
        group.addTask { for await notice in watcher.notices { await core.receive(notice, about: machine) } }
      }
      group.addTask { await core.keepAlive() }
      if let identity { group.addTask { [logger] in await identity.watch(logger: logger) } }
      group.addTask {
        do {
          try await app.run()
        } catch let error as IOError {
          throw ControllerError.cannotListen(listen, reason: String(cString: strerror(error.errnoCode)))
        }
      }
      // The first to fail ends the others; `waitForAll` would wait for them.
      while try await group.next() != nil {}
    }
  }

  private func application(core: ControllerCore, key: EndpointKey?, identity: IdentityKeeper?, ready: (@Sendable (Endpoint) -> Void)?)
    -> some ApplicationProtocol
  {
    let settings = self.settings
    let logger = self.logger
    // The framework tells of every start, and of every stop as an error; our own lines say it once.
    var quiet = logger
    quiet.logLevel = logger.logLevel <= .debug ? logger.logLevel : .critical
    return Application(
      router: API(core: core, key: key, identity: identity).router(),
      server: HTTPServerBuilder { responder in
        let base = HTTP1Channel(responder: responder, configuration: .init(idleTimeout: API.idleLimit))
        return if let identity { SecuredChannel(base: base, identity: identity, log: logger) } else { base }
      },
      configuration: ApplicationConfiguration(
        address: .hostname("\(settings.listen.address)", port: Int(settings.listen.port)), serverName: "longhaul",
        availableConnectionsDelegate: MaximumAvailableConnections(API.maximumConnections)),
      onServerRunning: { channel in
        let address = ControllerService.endpoint(channel.localAddress) ?? settings.listen
        logger.info("controller ready", metadata: ["listen": "\(address)", "machines": "\(settings.machines.count)"])
        ready?(address)
      }, logger: quiet)
  }

  private static func endpoint(_ address: SocketAddress?) -> Endpoint? {
    guard let text = address?.ipAddress, let port = address?.port, let ip = IPAddress(text.prefix { $0 != "%" }) else { return nil }
    return Endpoint(address: ip, port: UInt16(port))
  }
}
