import Foundation
import LinuxNetwork
import Synchronization
import Vocabulary

/// The "machine" of the handover bench: a namespace with both of a guest's addresses, and in it the agent and a paced source. It is stopped and continued as a guest is;
/// what a guest's memory holds is here in the memory of two processes, so nothing has to be copied.
///
/// One network card (`eth0`, a bridge of its own) has a cable to each center; that of one center is plugged in, and while the machine is stopped neither is.
final class BenchMachine: Sendable {
  static let space = Topology.space("vm")
  static let sourcePort = 9_000
  private static let hardware: [UInt8] = [0x52, 0x54, 0, 0x10, 1, 3]
  private static let readyLimit = TimeSpan.seconds(20 as Int64)

  /// A center, as the machine sees it.
  struct Place: Sendable {
    var site: String
    var space: Namespace
    var address: String
    /// The machine's end of the cable.
    var device: String

    static let one = Place(site: Nodes.center1, space: Topology.center1, address: Topology.guestAtCenter1, device: "eth1")
    static let two = Place(site: Nodes.center2, space: Topology.center2, address: Topology.guestAtCenter2, device: "eth2")
    static let all = [one, two]
  }

  private let ports: [String: (port: BenchPort, bridge: BenchPort)]
  private let card: BenchPort
  private let agent: ChildProcess
  private let source: ChildProcess
  /// Further programs that run in the machine, and stand still with it.
  private let guests = Mutex<[ChildProcess]>([])

  /// Makes it, running at Center 1, and waits until its agent and its source listen.
  init(
    _ settings: LabSettings, sourceRate: BitRate, tick: TimeSpan, _ prerequisites: Prerequisites, keyFile: String, folder: RunFolder
  ) async throws {
    do {
      try BenchMachine.build()
    } catch {
      throw LabError.network("\(error)")
    }
    var ports: [String: (port: BenchPort, bridge: BenchPort)] = [:]
    for place in Place.all { ports[place.site] = (try BenchPort("vm", in: place.space), try BenchPort("br0", in: place.space)) }
    let first = ports[Place.one.site]
    try first?.port.plug(into: first?.bridge)
    self.ports = ports
    card = try BenchPort("eth0", in: BenchMachine.space)
    let arguments = Nodes.agentArguments(settings, keyFile: keyFile) + ["--log-level", "debug"]
    agent = try ChildProcess("agent", BenchMachine.space.command([prerequisites.agent] + arguments), log: folder.file("agent.log"))
    do {
      let command = [
        prerequisites.program, "lab", "source", "--listen", "127.0.0.1:\(BenchMachine.sourcePort)", "--rate",
        "\(sourceRate.megabitsPerSecond)", "--tick-ms", "\(tick.milliseconds)", "--seed", "\(settings.seed)",
      ]
      source = try ChildProcess("source", BenchMachine.space.command(command), log: folder.file("source.log"))
    } catch {
      agent.end()
      throw error
    }
    do {
      try await source.waitForLine("source ready", limit: BenchMachine.readyLimit)
      try await agent.waitForLine("agent ready", limit: BenchMachine.readyLimit)
    } catch {
      end()
      throw error
    }
  }

  private static func build() throws {
    try space.create()
    try space.ip("link", "add", "eth0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
    let text = hardware.map { String(format: "%02x", $0) }.joined(separator: ":")
    try space.ip("link", "set", "eth0", "address", text)
    try space.ip("link", "set", "eth0", "up")
    for (number, place) in Place.all.enumerated() {
      try Shell.run([
        "ip", "link", "add", "vm", "netns", place.space.name, "type", "veth", "peer", "name", place.device, "netns", space.name,
      ])
      try space.ip("link", "set", place.device, "master", "eth0")
      try space.ip("link", "set", place.device, "up")
      // A bridge takes the least address of its ports, unless it has been given one; it must not change when the machine comes and goes. And what is unplugged is not answered.
      try place.space.ip("link", "set", "br0", "address", "52:54:00:10:0\(number + 1):01")
      try place.space.set(["net.ipv4.conf.all.arp_ignore": "1"])
      try place.space.ip("link", "set", "vm", "up")
      // As in the guest's init (GuestImage+Scripts.swift): the source address decides the way out, so that each works at its own site only.
      let net = "10.\(number + 1).0"
      let table = "\(101 + number)"
      try space.ip("addr", "add", "\(place.address)/24", "dev", "eth0")
      try space.ip("rule", "add", "from", place.address, "table", table)
      try space.ip("route", "add", "\(net).0/24", "dev", "eth0", "src", place.address, "table", table)
      try space.ip("route", "add", "default", "via", "\(net).1", "dev", "eth0", "src", place.address, "table", table)
      let metric = number == 0 ? "0" : "100"
      try space.ip("route", "add", "default", "via", "\(net).1", "dev", "eth0", "src", place.address, "metric", metric)
    }
  }

  /// No instruction runs and no packet comes or goes from here on.
  func stop(at place: Place) throws {
    try check()
    for process in all { kill(process.pid, SIGSTOP) }
    try ports[place.site]?.port.plug(into: nil)
  }

  /// It runs at the place, and its card says so, as a guest's does.
  func resume(at place: Place) throws {
    let port = ports[place.site]
    try port?.port.plug(into: port?.bridge)
    for process in all { kill(process.pid, SIGCONT) }
    let octets = place.address.split(separator: ".").compactMap { UInt8($0) }
    try card.announce(octets, hardware: BenchMachine.hardware)
  }

  /// Throws if a process of it has ended.
  func check() throws(LabError) {
    for process in all where !process.isRunning {
      throw .partFailed(process.name, what: "ended with status \(process.status ?? -1)", log: process.lastLines)
    }
  }

  private var all: [ChildProcess] { [agent, source] + guests.withLock { $0 } }

  /// Starts another program in it.
  func start(_ name: String, _ command: [String], log: String) throws(LabError) -> ChildProcess {
    let process = try ChildProcess(name, BenchMachine.space.command(command), log: log)
    guests.withLock { $0.append(process) }
    return process
  }

  func end() { for process in all.reversed() { process.end() } }

  /// What the agent's sessions have sent again so far, and what had been under way when they moved, in octets over all sessions.
  var replay: (again: Int, underWay: Int) {
    var latest: [Substring: (again: Int, underWay: Int)] = [:]
    for line in agent.lines(with: "moves so far: session ") {
      let words = line.split(separator: " ")
      func figure(_ name: String) -> Int? {
        words.firstIndex(of: name[...]).flatMap { words.indices.contains($0 + 1) ? Int(words[$0 + 1]) : nil }
      }
      guard let at = words.firstIndex(of: "session"), words.indices.contains(at + 1), let again = figure("again"),
        let underWay = figure("under-way")
      else { continue }
      latest[words[at + 1]] = (again, underWay)
    }
    return latest.values.reduce((0, 0)) { ($0.again + $1.again, $0.underWay + $1.underWay) }
  }
}
