import Vocabulary

/// What a node is to the controller.
package enum NodeRole: String, Codable, Sendable { case agent, client, accelerator }

/// What a node says of itself when it registers (`POST /v1/nodes`), and again whenever its link to the controller comes back.
package struct NodeDescription: Codable, Sendable, Hashable {
  package var node: NodeID
  package var role: NodeRole
  /// The site that the node stands in; nil for an agent, which moves with its machine.
  package var site: SiteID?
  /// The machine that an agent runs in, nil for the others.
  package var machine: MachineID?
  /// The machines that a client has sessions with.
  package var machines: [MachineID]
  /// Where an accelerator takes flows (HTTP CONNECT), nil for the others.
  package var entrance: Endpoint?
  /// Where an accelerator takes its peers' tunnels, nil for the others and where it takes none.
  package var tunnel: Endpoint?
  /// Where a node answers probes, nil if it does not.
  package var probe: Endpoint?
  /// The version of the program.
  package var version: String

  package init(
    node: NodeID, role: NodeRole, site: SiteID? = nil, machine: MachineID? = nil, machines: [MachineID] = [], entrance: Endpoint? = nil,
    tunnel: Endpoint? = nil, probe: Endpoint? = nil, version: String = "0.1.0"
  ) {
    self.node = node
    self.role = role
    self.site = site
    self.machine = machine
    self.machines = machines
    self.entrance = entrance
    self.tunnel = tunnel
    self.probe = probe
    self.version = version
  }
}

/// The way a carrier takes: straight to the machine, or through the entrance of an accelerator, which knows its peers by its own routes.
package enum PathChoice: Codable, Sendable, Hashable {
  case direct
  /// `entrance` is where the client connects (HTTP CONNECT); `accelerators` names those on the path, the client's side first.
  case accelerated(entrance: Endpoint, accelerators: [NodeID])
}

/// Permission to move a session's carrier, signed by the controller: HMAC-SHA-256 over `signedText` with the machine's endpoint key, or, where nodes have
/// certificates, ECDSA over the same text with the key of the controller's certificate, which the token carries.
/// A client takes it only when its epoch is greater than the last one it took, and before it expires.
package struct GoToken: Codable, Sendable, Hashable {
  package var machine: MachineID
  /// Grows with each handover of this machine.
  package var epoch: UInt64
  /// Where the machine's agent answers from now on.
  package var agent: Endpoint
  package var path: PathChoice
  /// Seconds since 1970.
  package var expires: Int64
  /// 32 octets in hexadecimal; empty until signed.
  package var mac: String
  /// The controller's certificate, DER in base64; nil where there are no certificates.
  package var certificate: String?
  /// ECDSA on P-256 with SHA-256, DER in base64; nil where there are no certificates.
  package var signature: String?

  package init(
    machine: MachineID, epoch: UInt64, agent: Endpoint, path: PathChoice, expires: Int64, mac: String = "", certificate: String? = nil,
    signature: String? = nil
  ) {
    self.machine = machine
    self.epoch = epoch
    self.agent = agent
    self.path = path
    self.expires = expires
    self.mac = mac
    self.certificate = certificate
    self.signature = signature
  }

  /// What the MAC or the signature covers: every field but these and the certificate, each behind its length, so that no two tokens have the same text.
  package var signedText: String {
    var lines = ["longhaul go 1", machine.text, "\(epoch)", "\(agent)", "\(expires)"]
    switch path {
    case .direct: lines.append("direct")
    case .accelerated(let entrance, let accelerators): lines += ["accelerated", "\(entrance)"] + accelerators.map(\.text)
    }
    return lines.map { "\($0.utf8.count):\($0)" }.joined(separator: "\n")
  }
}

/// What the controller tells a node, as the events of `GET /v1/nodes/{node}/orders` (server-sent events, one JSON object each).
package enum NodeOrder: Codable, Sendable, Hashable {
  /// To the agent and the clients of a machine whose migration has begun: it will answer at `agent`. The agent announces it (ASCONF Add-IP);
  /// a client keeps it dormant and may make the path ready.
  case prepare(migration: MigrationID, machine: MachineID, agent: Endpoint, path: PathChoice)
  /// To the clients: the guest has been stopped, do not count timeouts until GO or ROLL BACK.
  case freeze(migration: MigrationID, machine: MachineID)
  /// To the clients: move now. To the agent: pass it on to the clients, whom the old path may still reach.
  case go(migration: MigrationID, token: GoToken)
  /// To the agent and the clients: the migration failed or was cancelled, the announced address is withdrawn.
  case rollBack(migration: MigrationID, machine: MachineID, agent: Endpoint)
  /// To the agent: the source is gone for good; addresses other than `agent` may be deleted.
  case fence(migration: MigrationID, machine: MachineID, agent: Endpoint)
  /// To an accelerator: keep the tunnel to this peer warm for a path of this rate, for so long (milliseconds); again to go on.
  case warm(peer: NodeID, rate: BitRate, roundTripMilliseconds: Double, holdMilliseconds: Int64)
  /// To the accelerator beside a machine that is being migrated: tell this peer, beside its future place, what clients' accelerators have of the machine's (at `service`), for so
  /// long (milliseconds); again to go on, 0 to stop.
  case fill(peer: NodeID, service: IPAddress, holdMilliseconds: Int64)
  /// To the accelerator beside a machine's future place: the machine that will answer at `agent` is on its way. Flows to it wait for `arrived` (so a client may park its first
  /// flight there), for so long (milliseconds); again to go on.
  case expect(agent: Endpoint, holdMilliseconds: Int64)
  /// To the same: the machine runs there now, connect what waits.
  case arrived(agent: Endpoint)
  /// To the same: it is not coming; what still waits is connected as any flow is, which will tell.
  case withdrawn(agent: Endpoint)
  /// To an accelerator: its peers by the controller's map, all of them; again whenever that has changed.
  case peers(map: [PeerPlace])
  /// To a client or an accelerator: probe these places, each as often as said, and report.
  case probe(targets: [ProbeTarget])
}

package struct ProbeTarget: Codable, Sendable, Hashable {
  /// The site that the target stands for.
  package var site: SiteID
  package var address: Endpoint
  package var intervalMilliseconds: Int64

  package init(site: SiteID, address: Endpoint, intervalMilliseconds: Int64) {
    self.site = site
    self.address = address
    self.intervalMilliseconds = intervalMilliseconds
  }
}

/// What a node tells the controller (`POST /v1/nodes/{node}/reports`).
package enum NodeReport: Codable, Sendable, Hashable {
  /// A probe came back: the round trip, and the rate if the probe measured one.
  case measured(site: SiteID, roundTripMilliseconds: Double, rateMegabitsPerSecond: Double?)
  /// A probe of this site failed.
  case unreachable(site: SiteID, reason: String)
  /// The agent's peers have acknowledged the announcement (or, with `announced` false, the withdrawal) of an address.
  case announced(machine: MachineID, agent: Endpoint, sessions: Int)
  /// A client's session has moved; how long from taking GO to the confirmed carrier. Negative if a parked first flight had moved it before GO came.
  case moved(machine: MachineID, epoch: UInt64, goToConfirmedMilliseconds: Double)
  /// A client's session has found its machine by itself, without a GO: the controller may know a better path, and says so with one.
  case recovered(machine: MachineID, agent: Endpoint)
  /// A client could not move, or refused a GO.
  case stuck(machine: MachineID, epoch: UInt64, reason: String)
  /// Anything that belongs on the timeline.
  case event(String)
}

/// A report and when it happened by the node's own clock.
package struct TimedReport: Codable, Sendable, Hashable {
  /// Microseconds since 1970.
  package var atMicroseconds: Int64
  package var report: NodeReport

  package init(atMicroseconds: Int64, report: NodeReport) {
    self.atMicroseconds = atMicroseconds
    self.report = report
  }
}

/// One line of the timeline (`GET /v1/timeline`).
package struct TimelineEntry: Codable, Sendable, Hashable {
  /// Microseconds since 1970.
  package var atMicroseconds: Int64
  /// `controller`, a node's name, or `hypervisor SITE`.
  package var actor: String
  package var event: String

  package init(atMicroseconds: Int64, actor: String, event: String) {
    self.atMicroseconds = atMicroseconds
    self.actor = actor
    self.event = event
  }
}
