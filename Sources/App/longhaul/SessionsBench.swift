import Client
import Foundation
import LinuxNetwork
import Logging
import NIOCore
import NIOPosix
import Sockets
import Vocabulary

/// An agent in a process of its own, and many sessions with it in this one: what they cost, and how they move.
struct SessionsBench {
  var sessions: Int
  /// In all sessions together.
  var flows: Int
  /// Sessions that move at once, when everything is open.
  var moves: Int
  var program: String

  struct Result: Codable {
    var sessions = 0
    var openSeconds = 0.0
    var agentCPUSecondsToOpen = 0.0
    var residentKilobytesPerSession = 0.0
    /// Of the agent, with nothing under way: HEARTBEATs of all sessions.
    var agentIdleCPUPercent = 0.0
    var flows = 0
    var flowSeconds = 0.0
    var residentKilobytesPerFlow = 0.0
    var failures: [String: Int] = [:]
    var moved = 0
    /// Seconds from GO to the agent's confirmation: least, median, 90 and 99 of 100, greatest.
    var moveSeconds: [String: Double] = [:]
    var agentCPUSecondsToMove = 0.0
    var sessionsAfterMove = 0
    var flowsAfterMove = 0
    /// One flow more for each session that has moved: both directions work.
    var flowsOpenedAfterMove = 0
    var agentResidentMegabytes = 0.0
  }

  private static let here = IPAddress.v4(0x7f00_0001)
  private static let there = IPAddress.v4(0x7f00_0002)
  /// Local ports to one port of a service are some 28,000: flows are spread over more than one.
  private static let servicePorts = 4
  /// A handover that takes longer has failed.
  private static let moveLimit = TimeSpan.seconds(60 as Int64)

  func run(tell: (String) -> Void) async throws -> Result {
    let descriptors = FileLimit.raise()
    // In the agent: a carrier of each session, the services' connections, and for each move a second carrier and one flow more. In this process the other ends.
    let needed = sessions + flows + 2 * moves + DescriptorBudget.reserve
    guard descriptors >= needed else {
      throw BenchError(
        description:
          "bench: \(sessions) sessions with \(flows) flows need \(needed) descriptors in a process, and the hard limit on open files is "
          + "\(descriptors); raise it (ulimit -Hn, LimitNOFILE=), or ask for fewer")
    }
    let folder = FileManager.default.temporaryDirectory.appendingPathComponent("longhaul-bench-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let keyFile = folder + "/key"
    try (String(repeating: "5a", count: 32) + "\n").write(toFile: keyFile, atomically: true, encoding: .utf8)
    let agent = try await AgentProcess.start(program: program, keyFile: keyFile, log: folder + "/agent.log")
    defer { agent.stop() }
    var logger = Logger(label: "bench")
    logger.logLevel = .critical
    let group = MultiThreadedEventLoopGroup(numberOfThreads: 2)
    let services = try await Service(ports: flows > 0 || moves > 0 ? Self.servicePorts : 0)
    let fleet = try await ClientFleet(
      sessions, machine: "vm", agent: Endpoint(address: Self.here, port: agent.port), keyFile: keyFile, loops: group, logger: logger)
    var result = Result()
    do {
      try await open(fleet, agent, &result, tell)
      if flows > 0 { try await openFlows(fleet, agent, services, &result, tell) }
      if moves > 0 { try await move(fleet, agent, services, &result, tell) }
    } catch {
      try? await fleet.close()
      throw error
    }
    result.agentResidentMegabytes = agent.residentKilobytes / 1_024
    try await fleet.close()
    try await services.close()
    try? await group.shutdownGracefully()
    return result
  }

  private func open(_ fleet: ClientFleet, _ agent: AgentProcess, _ result: inout Result, _ tell: (String) -> Void) async throws {
    let (memory, cpu, began) = (agent.residentKilobytes, agent.cpuSeconds, ContinuousClock.now)
    let opened = try await fleet.open()
    result.sessions = opened.count
    result.openSeconds = (ContinuousClock.now - began).seconds
    result.agentCPUSecondsToOpen = agent.cpuSeconds - cpu
    result.failures.merge(opened.failures, uniquingKeysWith: +)
    // What opening took is given back by then, and HEARTBEATs run.
    try await Task.sleep(for: .seconds(3))
    let (idle, since) = (agent.cpuSeconds, ContinuousClock.now)
    try await Task.sleep(for: .seconds(5))
    result.agentIdleCPUPercent = (agent.cpuSeconds - idle) / (ContinuousClock.now - since).seconds * 100
    result.residentKilobytesPerSession = (agent.residentKilobytes - memory) / Double(max(1, opened.count))
    tell(
      "\(opened.count) of \(sessions) sessions in \(short(result.openSeconds)) s; \(short(result.residentKilobytesPerSession)) KB each in the agent, "
        + "\(short(result.agentIdleCPUPercent)) % of a core while all are idle")
    guard opened.count > 0 else { throw BenchError(description: "bench: no session was opened: \(opened.failures.keys.first ?? "?")") }
  }

  private func openFlows(
    _ fleet: ClientFleet, _ agent: AgentProcess, _ services: Service, _ result: inout Result, _ tell: (String) -> Void
  ) async throws {
    let (memory, began) = (agent.residentKilobytes, ContinuousClock.now)
    let opened = try await fleet.openFlows(flows, to: services.ports, inFirst: sessions)
    result.flows = opened.count
    result.flowSeconds = (ContinuousClock.now - began).seconds
    result.residentKilobytesPerFlow = (agent.residentKilobytes - memory) / Double(max(1, opened.count))
    result.failures.merge(opened.failures, uniquingKeysWith: +)
    tell(
      "\(opened.count) of \(flows) flows in \(short(result.flowSeconds)) s; \(short(result.residentKilobytesPerFlow)) KB each in the agent"
    )
  }

  private func move(
    _ fleet: ClientFleet, _ agent: AgentProcess, _ services: Service, _ result: inout Result, _ tell: (String) -> Void
  ) async throws {
    let cpu = agent.cpuSeconds
    let times = try await fleet.move(
      moves, to: Endpoint(address: Self.there, port: agent.port), epoch: 1, limit: Self.moveLimit
    ).map(\.seconds).sorted()
    result.agentCPUSecondsToMove = agent.cpuSeconds - cpu
    result.moved = times.count
    if !times.isEmpty {
      for (name, part) in [("min", 0.0), ("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        result.moveSeconds[name] = times[Int(Double(times.count - 1) * part)]
      }
    }
    (result.sessionsAfterMove, result.flowsAfterMove) = try await fleet.count()
    let more = try await fleet.openFlows(moves, to: services.ports, inFirst: moves)
    result.flowsOpenedAfterMove = more.count
    result.failures.merge(more.failures, uniquingKeysWith: +)
    let spread = ["min", "median", "p90", "p99", "max"].map { "\($0) \(short(result.moveSeconds[$0] ?? .nan))" }.joined(separator: ", ")
    tell(
      "\(times.count) of \(moves) sessions moved at once: \(spread) s; \(short(result.agentCPUSecondsToMove)) CPU seconds in the agent; "
        + "\(result.sessionsAfterMove) sessions and \(result.flowsAfterMove) flows are there, \(more.count) more flows opened")
  }
}

/// Three significant digits or so.
func short(_ value: Double) -> String { String(format: value < 1 ? "%.3f" : value < 100 ? "%.1f" : "%.0f", value) }

extension Duration {
  var seconds: Double { Double(components.seconds) + Double(components.attoseconds) / 1e18 }
}

/// A service that takes connections and leaves them open.
private struct Service {
  let ports: [UInt16]
  private let channels: [any Channel]
  private let group = MultiThreadedEventLoopGroup(numberOfThreads: 1)

  init(ports count: Int) async throws {
    var channels: [any Channel] = []
    for _ in 0..<count {
      channels.append(
        try await ServerBootstrap(group: group).serverChannelOption(.backlog, value: 4_096).bind(host: "127.0.0.1", port: 0).get())
    }
    self.channels = channels
    ports = channels.compactMap { $0.localAddress?.port.map { UInt16($0) } }
  }

  func close() async throws {
    for channel in channels { try? await channel.close() }
    try? await group.shutdownGracefully()
  }
}

/// An agent that runs beside the bench, and what the kernel says of it.
private struct AgentProcess {
  let pid: pid_t
  let port: UInt16

  static func start(program: String, keyFile: String, log: String) async throws -> AgentProcess {
    let port = try freePort()
    let null = Glibc.open("/dev/null", O_RDWR | O_CLOEXEC)
    let lines = Glibc.open(log, O_WRONLY | O_CREAT | O_CLOEXEC, 0o600)
    defer { for descriptor in [null, lines] { Glibc.close(descriptor) } }
    let pid = try Program.start(
      [
        program, "agent", "--listen", "0.0.0.0:\(port)", "--key-file", keyFile, "--machine", "vm", "--address", "127.0.0.1", "--address",
        "127.0.0.2", "--log-level", "warning",
      ], input: null, output: lines, errors: lines)
    let agent = AgentProcess(pid: pid, port: port)
    for _ in 0..<500 {
      if let channel = try? await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton).connect(host: "127.0.0.1", port: Int(port))
        .get()
      {
        try await channel.close()
        return agent
      }
      try await Task.sleep(for: .milliseconds(20))
    }
    agent.stop()
    throw BenchError(description: "bench: the agent \(program) does not listen on 127.0.0.1:\(port) after 10 s; its log: \(log)")
  }

  private static func freePort() throws -> UInt16 {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { Glibc.close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isBound = withUnsafeMutablePointer(to: &address) {
      $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        Glibc.bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
      }
    }
    guard isBound else { throw BenchError(description: "bench: no free port on this machine") }
    return UInt16(bigEndian: address.sin_port)
  }

  func stop() {
    kill(pid, SIGKILL)
    Program.waitForEnd(of: pid)
    _ = Program.reap(pid)
  }

  /// VmRSS.
  var residentKilobytes: Double {
    let text = (try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)) ?? ""
    let line = text.split(separator: "\n").first { $0.hasPrefix("VmRSS:") }
    return line?.split(whereSeparator: \.isWhitespace).dropFirst().first.flatMap { Double($0) } ?? 0
  }

  /// User and system time, fields 14 and 15 of its stat, in ticks.
  var cpuSeconds: Double {
    let text = (try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8)) ?? ""
    let fields = text.split(separator: ")").last?.split(separator: " ") ?? []
    guard fields.count > 13, let user = Double(fields[11]), let system = Double(fields[12]) else { return 0 }
    return (user + system) / Double(sysconf(Int32(_SC_CLK_TCK)))
  }
}
