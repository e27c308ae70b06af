import Certificates
import ChunkStores
import Flows
import Sockets
import Vocabulary

/// What a client is told at its start.
package struct ClientSettings: Sendable {
  /// A machine by the name that applications use, and where its agent answers at first.
  package struct Machine: Sendable, Hashable {
    package var name: MachineID
    /// Where its agent answers; a name is looked up when the client starts.
    package var agent: Location

    /// Reads `vm=10.1.0.3:7600` and `vm=vm.example.org:7600`.
    package init?(_ text: String) {
      let parts = text.split(separator: "=", maxSplits: 1)
      guard parts.count == 2, !parts[0].isEmpty, let agent = Location(parts[1]) else { return nil }
      name = MachineID(String(parts[0]))
      self.agent = agent
    }

    package init(name: MachineID, agent: Endpoint) {
      self.name = name
      self.agent = Location(agent)
    }
  }

  /// Local ports that lead to ports of a machine.
  package struct Forward: Sendable, Hashable {
    package var address: IPAddress
    package var ports: ClosedRange<UInt16>
    package var host: String
    /// The port for the first of `ports`; the others follow in step.
    package var targetPort: UInt16

    /// Reads `127.0.0.1:2121=vm:21`, or with ranges of the same length `127.0.0.1:30000-30019=vm:30000-30019`.
    package init?(_ text: String) {
      let sides = text.split(separator: "=", maxSplits: 1)
      guard sides.count == 2, let colon = sides[0].lastIndex(of: ":"), let targetColon = sides[1].lastIndex(of: ":"),
        let address = IPAddress(sides[0][..<colon].trimmingBrackets()),
        let ports = Forward.range(sides[0][sides[0].index(after: colon)...]),
        let targets = Forward.range(sides[1][sides[1].index(after: targetColon)...]), ports.count == targets.count
      else { return nil }
      self.address = address
      self.ports = ports
      host = String(sides[1][..<targetColon])
      targetPort = targets.lowerBound
    }

    private static func range(_ text: Substring) -> ClosedRange<UInt16>? {
      let ends = text.split(separator: "-", omittingEmptySubsequences: false).map { UInt16($0) }
      guard let first = ends[0], ends.count <= 2 else { return nil }
      guard ends.count == 2 else { return first...first }
      guard let last = ends[1], first <= last else { return nil }
      return first...last
    }

    func target(for port: UInt16) -> FlowTarget { FlowTarget(host: host, port: targetPort + (port - ports.lowerBound)) }
  }

  /// Nil: the name in the certificate, or "client".
  package var node: NodeID?
  package var site: SiteID?
  package var machines: [Machine]
  /// The file with the key that all nodes share; nil for a client with certificates.
  package var keyFile: String?
  /// The folder with this client's certificate (`longhaul pki`); nil: sessions are not sealed.
  package var certificates: String?
  package var socks: Endpoint?
  package var httpConnect: Endpoint?
  package var forwards: [Forward]
  package var controller: Endpoint?
  /// Octets of receive window of each carrier (TCP_WINDOW_CLAMP); nil leaves the kernel's own.
  package var carrierWindow: Int?
  /// How long the first session of each machine may take to come up.
  package var connectLimit: TimeSpan
  package var limits: FlowLimits
  /// False: the octets of sealed sessions go as they are.
  package var compresses = true
  /// The byte cache of sealed sessions.
  package var cache = CacheSettings.memory(CacheSettings.clientMemory)

  package init(
    node: NodeID? = nil, site: SiteID? = nil, machines: [Machine], keyFile: String? = nil, certificates: String? = nil,
    socks: Endpoint? = nil,
    httpConnect: Endpoint? = nil,
    forwards: [Forward] = [], controller: Endpoint? = nil, carrierWindow: Int? = nil, connectLimit: TimeSpan = .seconds(10 as Int64),
    limits: FlowLimits = FlowLimits()
  ) {
    self.node = node
    self.site = site
    self.machines = machines
    self.keyFile = keyFile
    self.certificates = certificates
    self.socks = socks
    self.httpConnect = httpConnect
    self.forwards = forwards
    self.controller = controller
    self.carrierWindow = carrierWindow
    self.connectLimit = connectLimit
    self.limits = limits
  }
}

/// Why a client could not start. The description is a whole line for a person.
package enum ClientError: Error, CustomStringConvertible {
  case cannotListen(Endpoint, reason: String)
  case agentUnreachable(MachineID, Endpoint, reason: String)
  case sessionRefused(MachineID, Endpoint, reason: String)
  /// One side does not take the other's certificate, or the exchange was broken off.
  case notSealed(MachineID, Endpoint, reason: String)
  case unknownMachine(String, in: String)
  case machineTwice(MachineID)
  case unknownHost(MachineID, Location, reason: String)
  case nothingToDo
  case noCredentials
  case anotherCertificate(NodeName)

  package var description: String {
    switch self {
    case .cannotListen(let endpoint, let reason):
      "client: cannot listen on \(endpoint): \(reason); choose another port, or end the program that has it"
    case .agentUnreachable(let machine, let agent, let reason):
      "client: no agent of machine \(machine) answers at \(agent): \(reason); is `longhaul agent` running there, and is the address right?"
    case .sessionRefused(let machine, let agent, let reason):
      "client: the agent of machine \(machine) at \(agent) refused the session: \(reason)"
    case .notSealed(let machine, let agent, let reason):
      "client: no sealed session with machine \(machine) at \(agent): \(reason); see docs/operations/pki.md"
    case .machineTwice(let machine): "client: --vm names the machine \(machine) twice; leave one"
    case .unknownHost(let machine, let agent, let reason):
      "client: no address found for the agent of machine \(machine) at \(agent): \(reason); correct --vm, or give an address"
    case .unknownMachine(let host, let option): "client: \(option) names the machine \(host), which no --vm gives"
    case .noCredentials:
      "client: neither --certificates nor --key-file is given; enrol with `longhaul pki`, or make a key that all nodes share with `longhaul keygen`"
    case .anotherCertificate(let name):
      "client: --certificates has the certificate of \(name), and agents take clients only; enrol as client/NAME (`longhaul pki`)"
    case .nothingToDo: "client: no entrance given; use --socks, --http-connect or --forward"
    }
  }
}

extension Substring {
  fileprivate func trimmingBrackets() -> Substring { hasPrefix("[") && hasSuffix("]") ? dropFirst().dropLast() : self }
}
