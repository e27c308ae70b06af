import Authentication
import Foundation
import LinuxNetwork
import Vocabulary

/// Longhaul's programs outside the guest, each in its namespace: controller, accelerators, client.
struct Nodes: Sendable {
  /// A node that is not ready by then is stuck: it does nothing but listen and dial.
  private static let readyLimit = TimeSpan.seconds(20 as Int64)
  static let agentPort = 7_600
  private static let entrancePort = 3_128
  private static let tunnelPort = 7_700
  private static let probePort = 7_701
  private static let socksPort = 1_080

  static let socks = "\(Topology.pcAddress):\(socksPort)"
  /// The sites of the experiment.
  static let accessSite = "access"
  static let center1 = "center1"
  static let center2 = "center2"

  private(set) var all: [ChildProcess] = []

  /// What the agent in the machine is started with.
  static func agentArguments(_ settings: LabSettings, keyFile: String = "/etc/longhaul.key") -> [String] {
    [
      "--machine", "vm", "--key-file", keyFile, "--listen", "0.0.0.0:\(agentPort)", "--controller",
      "\(Topology.controlAddress):\(ControllerClient.port)", "--address", Topology.guestAtCenter1, "--address", Topology.guestAtCenter2,
    ] + window(settings)
  }

  private static func window(_ settings: LabSettings) -> [String] {
    settings.endpointWindow.map { ["--carrier-window", "\($0)"] } ?? []
  }

  /// Starts controller and accelerators; the client comes when the guest is there. Without accelerators the one at Center 2 stays, since it answers the client's probes: the
  /// decision then says what is missing.
  mutating func startControl(
    _ settings: LabSettings, program: String, keyFile: String, folder: RunFolder, onLine: @escaping @Sendable (String) -> Void
  )
    async throws
  {
    try await startController(settings, program: program, keyFile: keyFile, folder: folder, onLine: onLine)
    var accelerators = [Accelerator.b]
    if settings.usesAccelerators { accelerators.append(.a(peers: [.b])) }
    try await startAccelerators(accelerators, settings, program: program, keyFile: keyFile, folder: folder)
  }

  mutating func startController(
    _ settings: LabSettings, program: String, keyFile: String, folder: RunFolder, onLine: @escaping @Sendable (String) -> Void
  ) async throws {
    let configuration = try folder.write(Nodes.controllerConfiguration(keyFile: keyFile, settings), to: "controller.yaml")
    let controller = try ChildProcess(
      "controller", Topology.control.command([program, "controller", "--config", configuration]), log: folder.file("controller.log"),
      onLine: onLine)
    all.append(controller)
    try await controller.waitForLine("controller ready", limit: Nodes.readyLimit)
  }

  /// An accelerator of the lab: where it stands, and whom it dials.
  struct Accelerator: Sendable {
    var name: String
    var space: Namespace
    var site: String
    var address: String
    /// The targets that lie behind it.
    var prefix: String
    var peers: [Accelerator] = []

    static let b = Accelerator(
      name: "b", space: Topology.acceleratorB, site: center2, address: Topology.acceleratorBAddress, prefix: "10.2.0.0/24")

    /// Only A opens flows, so only A dials.
    static func a(peers: [Accelerator]) -> Accelerator {
      Accelerator(
        name: "a", space: Topology.acceleratorA, site: accessSite, address: Topology.acceleratorAAddress, prefix: "10.0.1.0/24",
        peers: peers)
    }
  }

  /// Starts them in this order, and waits until all are ready.
  mutating func startAccelerators(
    _ accelerators: [Accelerator], _ settings: LabSettings, program: String, keyFile: String, folder: RunFolder
  ) async throws {
    // 96 %, so that a full link has no queue (the tunnel's own frames and TCP's headers are in what is paced).
    let rateLimit = "\(settings.rate.megabitsPerSecond * 0.96)"
    var started: [ChildProcess] = []
    for accelerator in accelerators {
      let address = accelerator.address
      let command = [
        program, "accelerator", "--node", accelerator.name, "--site", accelerator.site, "--key-file", keyFile, "--entrance",
        "\(address):\(Nodes.entrancePort)", "--tunnel", "\(address):\(Nodes.tunnelPort)", "--probe", "\(address):\(Nodes.probePort)",
        "--rate-limit", rateLimit, "--controller", "\(Topology.controlAddress):\(ControllerClient.port)",
      ]
      let peers = accelerator.peers.flatMap { peer in
        ["--peer", "\(peer.name)=\(peer.address):\(Nodes.tunnelPort)", "--route", "\(peer.prefix)=\(peer.name)"]
      }
      let process = try ChildProcess(
        "accelerator \(accelerator.name)", accelerator.space.command(command + peers),
        log: folder.file("accelerator-\(accelerator.name).log"))
      all.append(process)
      started.append(process)
    }
    for process in started { try await process.waitForLine("accelerator ready", limit: Nodes.readyLimit) }
  }

  /// - Parameters:
  ///   - more: options that only one experiment needs.
  ///   - number: of several clients on the same PC; each has a name and entrances of its own.
  mutating func startClient(
    _ settings: LabSettings, _ more: [String] = [], number: Int = 1, program: String, keyFile: String, folder: RunFolder
  ) async throws {
    let name = number == 1 ? "pc" : "pc-\(number)"
    let command = [
      program, "client", "--node", name, "--site", Nodes.accessSite, "--vm", "vm=\(Topology.guestAtCenter1):\(Nodes.agentPort)",
      "--key-file",
      keyFile, "--socks", "\(Topology.pcAddress):\(Nodes.socksPort + number - 1)", "--controller",
      "\(Topology.controlAddress):\(ControllerClient.port)",
    ]
    let client = try ChildProcess(
      number == 1 ? "client" : "client \(number)", Topology.pc.command(command + Nodes.window(settings) + more),
      log: folder.file(number == 1 ? "client.log" : "client-\(number).log"))
    all.append(client)
    try await client.waitForLine("client ready", limit: Nodes.readyLimit)
  }

  private static func controllerConfiguration(keyFile: String, _ settings: LabSettings) -> String {
    """
    listen: \(Topology.controlAddress):\(ControllerClient.port)
    keyFile: \(keyFile)
    sites:
      - name: \(accessSite)
      - name: \(center1)
      - name: \(center2)
    machines:
      - name: vm
        places:
          - site: \(center1)
            agent: \(Topology.guestAtCenter1):\(agentPort)
            hypervisor: unix:\(VirtualMachine.controllerSocket(center1))
          - site: \(center2)
            agent: \(Topology.guestAtCenter2):\(agentPort)
            hypervisor: unix:\(VirtualMachine.controllerSocket(center2))
    pathRates:
      \(accessSite)-\(center1): \(settings.rate.megabitsPerSecond)
      \(accessSite)-\(center2): \(settings.rate.megabitsPerSecond)
    probeIntervalMilliseconds: 500
    placement:
      delayThresholdMilliseconds: \(settings.delayThreshold.milliseconds)

    """
  }

  func end() { for node in all.reversed() { node.end() } }
}
