import ChunkStores
import Sockets
import Vocabulary

/// A setting of one value, with its names in the file and in the environment, and how its text is read.
struct SettingKey: Sendable {
  let name: String
  /// In front of it stands `LONGHAUL_`.
  let variable: String
  /// What is expected, in words.
  let expected: String
  /// A path, which in a file counts from the file's folder.
  var isPath = false
  /// False: the text is not what is expected.
  let take: @Sendable (_ text: String, _ draft: inout AcceleratorDraft) -> Bool

  private static func value<T>(
    _ name: String, _ variable: String, _ expected: String, isPath: Bool = false,
    _ read: @escaping @Sendable (String) -> T?, _ set: @escaping @Sendable (inout AcceleratorDraft, T) -> Void
  ) -> SettingKey {
    SettingKey(name: name, variable: variable, expected: expected, isPath: isPath) { text, draft in
      guard let value = read(text) else { return false }
      set(&draft, value)
      return true
    }
  }

  private static func number<T: Comparable & LosslessStringConvertible & Sendable>(
    _ name: String, _ variable: String, _ range: ClosedRange<T>, _ set: @escaping @Sendable (inout AcceleratorDraft, T) -> Void
  ) -> SettingKey {
    value(
      name, variable, "a number from \(range.lowerBound) to \(range.upperBound)",
      { text in T(text).flatMap { range.contains($0) ? $0 : nil } }, set)
  }

  private static func text(_ text: String) -> String? { text.isEmpty ? nil : text }

  private static let place = "ADDRESS:PORT, for instance 10.0.0.1:7700"

  /// All that flags can say but for the lists, which have forms of their own in the file.
  static let all: [SettingKey] = [
    value("node", "NODE", "a name", text) { $0.node = NodeID($1) },
    value("site", "SITE", "a name", text) { $0.site = SiteID($1) },
    value("keyFile", "KEY_FILE", "the file with the endpoint key", isPath: true, text) { $0.keyFile = $1 },
    value("certificates", "CERTIFICATES", "the folder with this accelerator's certificate", isPath: true, text) { $0.certificates = $1 },
    value("authority", "AUTHORITY", place, { Location($0) }) { $0.authority = $1 },
    value("entrance", "ENTRANCE", place, { Endpoint($0) }) { $0.entrance = $1 },
    value("socks", "SOCKS", place, { Endpoint($0) }) { $0.socks = $1 },
    value("transparent", "TRANSPARENT", place, { Endpoint($0) }) { $0.transparent = $1 },
    value("keepSource", "KEEP_SOURCE", "true or false", { Bool($0) }) { $0.keepsSource = $1 },
    value("bypass", "BYPASS", "direct or refuse", { EntranceSettings.Bypass(rawValue: $0) }) { $0.bypass = $1 },
    value("directCongestion", "DIRECT_CONGESTION", "kernel, cubic or bbr", { EntranceSettings.Congestion(rawValue: $0) }) {
      $0.directCongestion = $1
    },
    value("tunnel", "TUNNEL", place, { Endpoint($0) }) { $0.tunnel = $1 },
    value("probe", "PROBE", place, { Endpoint($0) }) { $0.probe = $1 },
    value("metrics", "METRICS", place, { Endpoint($0) }) { $0.metrics = $1 },
    value("controller", "CONTROLLER", place, { Endpoint($0) }) { $0.controller = $1 },
    number("rateLimitMbps", "RATE_LIMIT_MBPS", AcceleratorSettings.rateRange) { $0.rateLimit = .megabitsPerSecond($1) },
    number("connections", "CONNECTIONS", AcceleratorSettings.connectionRange) { $0.connections = $1 },
    number("loops", "LOOPS", AcceleratorSettings.loopRange) { $0.loops = $1 },
    value("compression", "COMPRESSION", "true or false", { Bool($0) }) { $0.compresses = $1 },
    value("cache", "CACHE", "the folder of the byte cache", isPath: true, text) { $0.cacheFolder = $1 },
    value("cacheSize", "CACHE_SIZE", CacheSettings.sizeForm, { CacheSettings.size($0) }) { $0.cacheSize = $1 },
    value("caching", "CACHING", "true or false", { Bool($0) }) { $0.caches = $1 },
    value("keepWarm", "KEEP_WARM", "true or false", { Bool($0) }) { $0.keepsWarm = $1 },
    number("drainSeconds", "DRAIN_SECONDS", AcceleratorSettings.drainRange) { $0.drain = .seconds($1) },
  ]
}

extension AcceleratorSettings {
  /// What one peer accepts of all its callers together on one loop is `Shard.maximumAccepted`, 64.
  package static let connectionRange = 1...64
  package static let loopRange = 1...256
  /// In Mbit/s.
  package static let rateRange = 0.1...1_000_000.0
  /// An hour: then whoever waits for the program to end has forgotten it.
  package static let drainRange = 0...3_600.0
}
