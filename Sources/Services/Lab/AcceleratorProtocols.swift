import Foundation
import LinuxNetwork
import Vocabulary

/// Real programs through a pair: curl takes files from vsftpd and from busybox's httpd by CONNECT, and somebody types while a download goes on.
package struct AcceleratorProtocols: Sendable {
  /// What one transfer, or all keystrokes, came to.
  package struct Row: Codable, Sendable {
    package var what: String
    package var octets: Int
    /// From curl's start of the transfer to its end, with all that its protocol says before; of keystrokes the median from the key to its echo, less the round trip.
    package var seconds: Double
    /// Of keystrokes only: 99 of 100 are not longer.
    package var p99Seconds: Double?
    package var wanOctets: Int
    package var isRight: Bool
  }

  private static let readyLimit = TimeSpan.seconds(10 as Int64)
  private static let httpPort: UInt16 = 8_080
  private static let fileOctets = 20_000_000
  /// 20 a second, as a quick typist with his cursor keys.
  private static let keystrokes = 100
  private static let pause = TimeSpan.milliseconds(50 as Int64)

  var passage: AcceleratorPassage
  var topology: AcceleratorTopology
  var server: ObjectServer
  var roundTrip: TimeSpan
  var logs: String

  func measure(_ objects: inout ObjectSupply, kind: BenchObject.Kind) async throws -> [Row] {
    for (name, package) in [("vsftpd", "vsftpd"), ("busybox", "busybox-static"), ("curl", "curl")] where Shell.find(name) == nil {
      throw LabError.missingProgram(name, package: package)
    }
    // vsftpd serves it as another user.
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-bench-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: "\(folder)/srv", withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let versions = try objects.next(kind, Self.fileOctets, versions: kind == .image ? 2 : 1)
    for (number, object) in versions.enumerated() { try Data(object.octets).write(to: URL(fileURLWithPath: "\(folder)/srv/\(number)")) }
    let configuration = GuestImage.vsftpdConfiguration.replacingOccurrences(of: "/srv/ftp", with: "\(folder)/srv")
    try Data(configuration.utf8).write(to: URL(fileURLWithPath: "\(folder)/vsftpd.conf"))
    let space = AcceleratorTopology.server
    let ftp = try ChildProcess("vsftpd", space.command(["vsftpd", "\(folder)/vsftpd.conf"]), log: "\(logs)/vsftpd.log")
    defer { ftp.end() }
    let web = try ChildProcess(
      "httpd", space.command(["busybox", "httpd", "-f", "-p", "\(Self.httpPort)", "-h", "\(folder)/srv"]), log: "\(logs)/httpd.log")
    defer { web.end() }
    let host = AcceleratorTopology.serverAddress
    for port in [21, Self.httpPort] { try await wait(for: Endpoint(address: server.endpoint.address, port: port)) }

    var rows: [Row] = []
    let transfers = [
      ("ftp, first", "ftp://\(host)/0", 0), ("ftp, again", "ftp://\(host)/0", 0),
      ("http, what went by ftp", "http://\(host):\(Self.httpPort)/0", 0),
    ]
    for (what, url, number) in transfers { rows.append(try await transfer(what, url, versions[number], to: "\(folder)/got")) }
    if versions.count > 1 {
      rows.append(try await transfer("http, its next version", "http://\(host):\(Self.httpPort)/1", versions[1], to: "\(folder)/got"))
    }
    rows.append(try await type("keystrokes alone", beside: nil))
    rows.append(try await type("keystrokes beside a download", beside: try objects.next(.random, Self.fileOctets)[0]))
    return rows
  }

  private func transfer(_ what: String, _ url: String, _ object: BenchObject, to path: String) async throws -> Row {
    let command = [
      "curl", "--silent", "--show-error", "--proxytunnel", "--proxy", "http://\(passage.entry)", "--max-time", "120", "--output", path,
      "--write-out", "%{time_total}", url,
    ]
    let before = topology.octets
    let text = try await LabSocket.onThread(in: nil) { try Shell.run(AcceleratorTopology.client.command(command)) }
    try await topology.waitUntilQuiet(limit: Self.readyLimit)
    let after = topology.octets
    return Row(
      what: what, octets: object.octets.count, seconds: Double(text) ?? 0, wanOctets: after.up + after.down - before.up - before.down,
      isRight: FileManager.default.contents(atPath: path).map { [UInt8]($0) == object.octets } ?? false)
  }

  /// - Parameter object: is downloaded meanwhile, so that every key meets it.
  private func type(_ what: String, beside object: BenchObject?) async throws -> Row {
    let before = topology.octets
    let (entry, target, space) = (passage.entry, passage.target, passage.client)
    if let object { server.put(object, as: 2) }
    defer { server.remove(2) }
    async let download = object.map { object in
      ObjectFetch(entry: entry, target: target, space: space, number: 2, object: object, limit: .seconds(60 as Int64))
    }?.run()
    let times = try await LabSocket.onThread(in: space) { () -> [Double] in
      let connection = try ObjectFetch.open(entry, target)
      defer { close(connection) }
      guard LabSocket.write("PING\n", to: connection) else { return [] }
      var times: [Double] = []
      for number in 0..<Self.keystrokes {
        let began = ContinuousClock.now
        let key = [UInt8](repeating: UInt8(number & 0x7f), count: 32)
        guard key.withUnsafeBytes({ LabSocket.write($0, to: connection) }), LabSocket.read(connection, exactly: key.count) == key else {
          break
        }
        times.append(seconds(since: began))
        usleep(UInt32(Self.pause.nanoseconds / 1_000))
      }
      return times
    }.map { $0 - roundTrip.seconds }.sorted()
    let outcome = try await download
    let isRight = times.count == Self.keystrokes && outcome.map { $0.isComplete && $0.wrongAt == nil } ?? true
    let after = topology.octets
    return Row(
      what: what, octets: times.count * 64, seconds: BenchResult.median(ofSorted: times),
      p99Seconds: times.isEmpty ? nil : times[min(times.count - 1, (times.count * 99 + 99) / 100 - 1)],
      wanOctets: after.up + after.down - before.up - before.down, isRight: isRight)
  }

  private func wait(for endpoint: Endpoint) async throws {
    let deadline = ContinuousClock.now + .nanoseconds(Self.readyLimit.nanoseconds)
    while true {
      let isThere = try await LabSocket.onThread(in: AcceleratorTopology.server) { () -> Bool in
        guard let connection = try? LabSocket.connect(to: endpoint, limit: .seconds(1 as Int64)) else { return false }
        close(connection)
        return true
      }
      if isThere { return }
      guard ContinuousClock.now < deadline else {
        throw LabError.partFailed("the server", what: "does not listen on port \(endpoint.port)", log: [])
      }
      try await Task.sleep(for: .milliseconds(20))
    }
  }
}
