import Certificates
import ChunkStores
import Flows
import Vocabulary

/// What an agent is told at its start.
package struct AgentSettings: Sendable {
  package var listen: Endpoint
  /// The file with the key that all nodes share; nil for an agent with certificates.
  package var keyFile: String?
  /// The folder with this agent's certificate (`longhaul pki`); nil: sessions are not sealed.
  package var certificates: String?
  package var machine: MachineID
  /// The agent's own name at the controller.
  package var node: NodeID
  package var controller: Endpoint?
  /// The machine's addresses, in the order in which they are tried as the source towards the controller.
  package var addresses: [IPAddress]
  /// Octets of receive window of each carrier (TCP_WINDOW_CLAMP); nil leaves the kernel's own.
  package var carrierWindow: Int?
  package var limits: FlowLimits
  /// False: the octets of sealed sessions go as they are.
  package var compresses = true
  /// The byte cache of sealed sessions.
  package var cache = CacheSettings.memory(CacheSettings.agentMemory)

  package init(
    listen: Endpoint, keyFile: String? = nil, certificates: String? = nil, machine: MachineID, node: NodeID? = nil,
    controller: Endpoint? = nil,
    addresses: [IPAddress] = [],
    carrierWindow: Int? = nil, limits: FlowLimits = FlowLimits()
  ) {
    self.listen = listen
    self.keyFile = keyFile
    self.certificates = certificates
    self.machine = machine
    self.node = node ?? NodeID(machine.text)
    self.controller = controller
    self.addresses = addresses
    self.carrierWindow = carrierWindow
    self.limits = limits
  }
}

/// Why an agent could not start. The description is a whole line for a person.
package enum AgentError: Error, CustomStringConvertible {
  case cannotListen(Endpoint, reason: String)
  case noCredentials
  case anotherCertificate(NodeName, machine: MachineID)

  package var description: String {
    switch self {
    case .cannotListen(let endpoint, let reason):
      "agent: cannot listen on \(endpoint): \(reason); choose another --listen, or end the program that has it"
    case .noCredentials:
      "agent: neither --certificates nor --key-file is given; enrol with `longhaul pki`, or make a key that all nodes share with `longhaul keygen`"
    case .anotherCertificate(let name, let machine):
      "agent: --certificates has the certificate of \(name), and clients of machine \(machine) expect agent/\(machine); correct --machine, or enrol again"
    }
  }
}
