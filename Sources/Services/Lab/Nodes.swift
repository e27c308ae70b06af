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

  /// What the agent in the guest is started with.
  static func agentArguments(_ settings: LabSettings) -> [String] {
    [
      "--machine", "vm", "--key-file", "/etc/longhaul.key", "--listen", "0.0.0.0:\(agentPort)", "--controller",
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
    let configuration = try folder.write(Nodes.controllerConfiguration(keyFile: keyFile, settings), to: "controller.yaml")
    let controller = try ChildProcess(
      "controller", Topology.control.command([program, "controller", "--config", configuration]), log: folder.file("controller.log"),
      onLine: onLine)
    all.append(controller)
    try await controller.waitForLine("controller ready", limit: Nodes.readyLimit)
    // 96 %, so that a full link has no queue (the tunnel's own frames and TCP's headers are in what is paced).
    let rateLimit = "\(settings.rate.megabitsPerSecond * 0.96)"
    func accelerator(_ name: String, _ space: Namespace, _ site: String, address: String, _ more: [String] = []) throws {
      let command = [
        program, "accelerator", "--node", name, "--site", site, "--key-file", keyFile, "--entrance", "\(address):\(Nodes.entrancePort)",
        "--tunnel", "\(address):\(Nodes.tunnelPort)", "--probe", "\(address):\(Nodes.probePort)", "--rate-limit", rateLimit, "--controller",
        "\(Topology.controlAddress):\(ControllerClient.port)",
      ]
      all.append(try ChildProcess("accelerator \(name)", space.command(command + more), log: folder.file("accelerator-\(name).log")))
    }
    try accelerator("b", Topology.acceleratorB, Nodes.center2, address: Topology.acceleratorBAddress)
    if settings.usesAccelerators {
      // Only A opens flows, so only A dials.
      let peer = ["--peer", "b=\(Topology.acceleratorBAddress):\(Nodes.tunnelPort)", "--route", "10.2.0.0/24=b"]
      try accelerator("a", Topology.acceleratorA, Nodes.accessSite, address: Topology.acceleratorAAddress, peer)
    }
    for node in all.dropFirst() { try await node.waitForLine("accelerator ready", limit: Nodes.readyLimit) }
  }

  mutating func startClient(_ settings: LabSettings, program: String, keyFile: String, folder: RunFolder) async throws {
    let command = [
      program, "client", "--node", "pc", "--site", Nodes.accessSite, "--vm", "vm=\(Topology.guestAtCenter1):\(Nodes.agentPort)",
      "--key-file",
      keyFile, "--socks", Nodes.socks, "--controller", "\(Topology.controlAddress):\(ControllerClient.port)",
    ]
    let client = try ChildProcess("client", Topology.pc.command(command + Nodes.window(settings)), log: folder.file("client.log"))
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

    """
  }

  func end() { for node in all.reversed() { node.end() } }
}
