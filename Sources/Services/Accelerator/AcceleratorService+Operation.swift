import Logging
import NIOCore
import Vocabulary

/// What an operator does to a running accelerator.
extension AcceleratorService {
  /// While flows end it is looked at so often whether all have.
  private static let drainStep = Duration.milliseconds(20)

  /// Reads the settings again and takes what can be taken without a restart. What cannot be read leaves all as it is, and is one line of the log.
  package func reload(_ read: @Sendable () throws -> AcceleratorSettings) async {
    let new: AcceleratorSettings
    do { new = try read() } catch {
      logger.error("settings not taken, the former ones hold: \(error)")
      return
    }
    let old = settings
    let fixed = old.differencesThatNeedRestart(from: new)
    if !fixed.isEmpty {
      logger.warning("settings: \(fixed.joined(separator: ", ")) changed; that counts after a restart, and until then the former holds")
    }
    let taken = new.keepingFixed(of: old)
    settings = taken
    ledger.withLock { $0 }?.apply(taken)
    for shard in shards.withLock({ $0 }) { try? await shard.eventLoop.submit { shard.value.apply(taken) }.get() }
    logger.notice(
      "settings taken",
      metadata: [
        "peers": "\(taken.peers.map { "\($0.node)=\($0.tunnel)" }.joined(separator: " "))", "routes": "\(taken.routes.count)",
        "tenants": "\(taken.tenants.count)", "rules": "\(taken.classes.rules.count)",
      ])
  }

  /// Lets living flows end, up to the limit.
  func endFlows() async throws {
    let shards = shards.withLock { $0 }
    figuresState.withLock { $0.isDraining = true }
    let (limit, count) = (settings.drain, try await flowCount())
    logger.notice(
      "stopping: nothing new is taken in, and \(count == 1 ? "1 flow has" : "\(count) flows have") \(limit.wholeSeconds) s to end")
    for shard in shards { try await shard.eventLoop.submit { shard.value.leave() }.get() }
    let until = ContinuousClock.now + .nanoseconds(limit.nanoseconds)
    while ContinuousClock.now < until, !Task.isCancelled {
      var isSpent = true
      for shard in shards where isSpent { isSpent = try await shard.eventLoop.submit { shard.value.isSpent }.get() }
      if isSpent { return logger.notice("all flows have ended") }
      try? await Task.sleep(for: Self.drainStep)
    }
    let left = try await flowCount()
    logger.notice(
      "\(left == 1 ? "1 flow was" : "\(left) flows were") still open \(Task.isCancelled ? "when told to stop at once" : "after \(limit.wholeSeconds) s"), and \(left == 1 ? "is" : "are") reset"
    )
  }
}

extension TimeSpan {
  fileprivate var wholeSeconds: Int64 { nanoseconds / 1_000_000_000 }
}

extension AcceleratorSettings {
  /// What a running accelerator cannot change, as the settings call it: it has been listened on, said to others, or read already.
  func differencesThatNeedRestart(from new: AcceleratorSettings) -> [String] {
    func name<T: Equatable>(_ name: String, _ path: KeyPath<AcceleratorSettings, T>) -> String? {
      self[keyPath: path] == new[keyPath: path] ? nil : name
    }
    return [
      name("node", \.node), name("site", \.site), name("keyFile", \.keyFile), name("certificates", \.certificates),
      name("authority", \.authority), name("entrance", \.entrance), name("socks", \.entrances.socks),
      name("forwards", \.entrances.forwards), name("transparent", \.entrances.transparent),
      name("keepSource", \.entrances.keepsSource), name("tunnel", \.tunnel), name("probe", \.probe),
      name("metrics", \.metrics), name("controller", \.controller), name("loops", \.loops),
      name("cache", \.cache),
    ].compactMap { $0 }
  }

  /// These settings, with what needs a restart as it was.
  func keepingFixed(of old: AcceleratorSettings) -> AcceleratorSettings {
    var taken = self
    taken.node = old.node
    taken.site = old.site
    taken.keyFile = old.keyFile
    taken.certificates = old.certificates
    taken.authority = old.authority
    taken.entrance = old.entrance
    taken.entrances.socks = old.entrances.socks
    taken.entrances.forwards = old.entrances.forwards
    taken.entrances.transparent = old.entrances.transparent
    taken.entrances.keepsSource = old.entrances.keepsSource
    taken.tunnel = old.tunnel
    taken.probe = old.probe
    taken.metrics = old.metrics
    taken.controller = old.controller
    taken.loops = old.loops
    taken.cache = old.cache
    return taken
  }
}
