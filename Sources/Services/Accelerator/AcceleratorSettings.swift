import Certificates
import ChunkStores
import Flows
import Interception
import Sockets
import Vocabulary

/// What an accelerator is told at its start.
package struct AcceleratorSettings: Sendable {
  /// Another accelerator, and where it takes tunnels.
  package struct Peer: Sendable, Hashable {
    package var node: NodeID
    package var tunnel: Endpoint

    package init(node: NodeID, tunnel: Endpoint) {
      self.node = node
      self.tunnel = tunnel
    }

    /// `b=10.2.0.5:7700`.
    package init?(_ text: String) {
      guard let equals = text.firstIndex(of: "="), equals > text.startIndex, let tunnel = Endpoint(text[text.index(after: equals)...])
      else {
        return nil
      }
      self.init(node: NodeID(String(text[..<equals])), tunnel: tunnel)
    }
  }

  /// Targets that lie behind a peer.
  package struct Route: Sendable, Hashable {
    package var prefix: IPPrefix
    package var peer: NodeID

    package init(prefix: IPPrefix, peer: NodeID) {
      self.prefix = prefix
      self.peer = peer
    }

    /// `10.2.0.0/24=b`.
    package init?(_ text: String) {
      guard let equals = text.firstIndex(of: "="), let prefix = IPPrefix(text[..<equals]), text.index(after: equals) < text.endIndex else {
        return nil
      }
      self.init(prefix: prefix, peer: NodeID(String(text[text.index(after: equals)...])))
    }
  }

  package var node: NodeID
  package var site: SiteID?
  /// The file with the key that all nodes share. Nil: there are certificates.
  package var keyFile: String?
  /// The folder with this accelerator's certificate (`longhaul pki`): tunnels are inside TLS then, and so is its link to the controller. The key is not used.
  package var certificates: String?
  /// Where applications and clients come in by HTTP CONNECT; nil for an accelerator that only serves its peers.
  package var entrance: Endpoint?
  /// The other ways in.
  package var entrances = EntranceSettings()
  /// Where peers' tunnels come in; nil for one that only dials.
  package var tunnel: Endpoint?
  /// Where probes are answered.
  package var probe: Endpoint?
  package var peers: [Peer]
  package var routes: [Route]
  /// What all tunnel connections to one peer send together: about 96 % of the path's rate. Nil: as much as congestion control finds.
  package var rateLimit: BitRate?
  package var controller: Endpoint?
  /// Event loops; a flow, its sockets and its tunnel connection live on one of them.
  package var loops: Int
  /// Tunnel connections to each peer, all loops together; every loop has at least one.
  package var connectionsPerPeer: Int
  /// False: DATA goes out plain in both directions.
  package var compresses: Bool
  package var limits: FlowLimits
  /// The byte cache.
  package var cache = CacheSettings.memory(CacheSettings.defaultMemory)
  /// Where figures are told (Prometheus text, JSON).
  package var metrics: Endpoint?
  /// How long living flows may take to end once the accelerator has been told to stop.
  package var drain = AcceleratorSettings.defaultDrain
  /// Flows that all loops together carry; nil: only the connections' own limits.
  package var maximumFlows: Int?
  /// Octets that the windows of all flows may hold, from which each new flow's window is granted.
  package var memory = AcceleratorSettings.defaultMemory
  package var tenants: [Tenant] = []
  package var classes = FlowClassifier()
  /// What each class gets of a full tunnel connection.
  package var weights = FlowScheduler.Weights()
  /// Who keeps the certificate fresh.
  package var authority: Location?
  /// The tunnels to all peers are warmed as soon as they are up, and kept so, without an order of the controller. Needs `rateLimit`.
  package var keepsWarm = false
  /// How long a peer that the controller's map leaves out is kept: a controller that was started again hears of its nodes within seconds.
  package var mapPatience = TimeSpan.seconds(Int64(30))
  /// From a connection at the entrance to its whole CONNECT.
  package var entranceLimit = AcceleratorSettings.defaultEntranceLimit

  package static let defaultEntranceLimit = TimeSpan.nanoseconds(InterceptionLimits.handshake.nanoseconds)
  /// A page, a query, the rest of a small file.
  package static let defaultDrain = TimeSpan.seconds(Int64(30))
  /// 64 flows with the usual window of 16 MiB; with 4,096 flows each has 256 KiB.
  package static let defaultMemory = 1 << 30
  package static let defaultConnectionsPerPeer = 4
  package static let defaultLoops = 1
  /// 1,024 flows a connection: four connections carry 4,096, and a peer cannot make this end hold more sockets than that.
  package static let maximumFlows = 1_024
  /// The longest round trip for which one flow fills the rate limit.
  package static let longestRoundTrip = TimeSpan.milliseconds(Int64(500))

  package init(
    node: NodeID, site: SiteID? = nil, keyFile: String? = nil, certificates: String? = nil, entrance: Endpoint? = nil,
    tunnel: Endpoint? = nil,
    probe: Endpoint? = nil,
    peers: [Peer] = [], routes: [Route] = [], rateLimit: BitRate? = nil, controller: Endpoint? = nil,
    loops: Int = AcceleratorSettings.defaultLoops, connectionsPerPeer: Int = AcceleratorSettings.defaultConnectionsPerPeer,
    compresses: Bool = true, limits: FlowLimits? = nil
  ) {
    self.node = node
    self.site = site
    self.keyFile = keyFile
    self.certificates = certificates
    self.entrance = entrance
    self.tunnel = tunnel
    self.probe = probe
    self.peers = peers
    self.routes = routes
    self.rateLimit = rateLimit
    self.controller = controller
    self.loops = max(loops, 1)
    self.connectionsPerPeer = max(connectionsPerPeer, 1)
    self.compresses = compresses
    self.limits = limits ?? FlowLimits(window: AcceleratorSettings.window(for: rateLimit), maximumFlows: AcceleratorSettings.maximumFlows)
  }

  /// A flow's window counts application octets, of which compression puts several into one on the wire. Where segments are lost it must not end while octets wait for a lost one at
  /// the far end: of one whose retransmission is lost, too, they wait two round trips longer. Bandwidth x delay for what is under way, twice that for what waits, half for the way of CREDIT,
  /// and an eighth of the window that is owed: 4 x rate x 500 ms, but not less than the usual 16 MiB and not more than 128 MiB.
  static func window(for rate: BitRate?) -> Int {
    let wanted = 4 * (rate?.bytes(in: longestRoundTrip).octets ?? 0)
    return min(max(wanted, 16 << 20), 128 << 20)
  }
}

/// Why an accelerator could not start. The description is a whole line for a person.
package enum AcceleratorError: Error, Hashable, CustomStringConvertible {
  case cannotListen(Endpoint, option: String, reason: String)
  case unknownPeer(NodeID, route: IPPrefix)
  case peerTwice(NodeID)
  case peerIsSelf(NodeID)
  case badName(NodeID)
  case nothingToDo
  case noName
  case noProof
  case anotherCertificate(NodeName, node: NodeID)

  package var description: String {
    switch self {
    case .cannotListen(let endpoint, let option, let reason):
      "accelerator: cannot listen on \(endpoint) (\(option)): \(reason); "
        + (option == "--transparent"
          ? "a transparent entrance takes CAP_NET_ADMIN, an address of this machine and a free port"
          : "choose another address or port, or end the program that has it")
    case .unknownPeer(let peer, let route):
      "accelerator: --route \(route)=\(peer) names the peer \(peer), which no --peer gives; add --peer \(peer)=ADDRESS:PORT"
    case .peerTwice(let peer): "accelerator: --peer \(peer) is given twice; leave one"
    case .peerIsSelf(let peer): "accelerator: --peer \(peer) is this node's own name (--node); give each accelerator its own"
    case .badName(let name): "accelerator: the name \"\(name)\" is empty or longer than 64 octets; choose another"
    case .noName: "accelerator: it has no name; give one with --node, LONGHAUL_NODE, or `node` in the settings"
    case .noProof:
      "accelerator: neither --certificates nor --key-file given; tunnels need one of them to know their peers (see `longhaul pki` and `longhaul keygen`)"
    case .nothingToDo: "accelerator: nothing to listen on; give at least one of --entrance, --socks, --forward, --transparent and --tunnel"
    case .anotherCertificate(let name, let node):
      "accelerator: --certificates has the certificate of \(name), and this node is accelerator/\(node); correct --node, or enrol again"
    }
  }
}

extension AcceleratorSettings {
  /// Throws on what can be told without opening anything.
  package func check() throws(AcceleratorError) {
    guard entrance != nil || !entrances.isEmpty || tunnel != nil else { throw .nothingToDo }
    guard certificates != nil || keyFile != nil else { throw .noProof }
    var seen: Set<NodeID> = []
    for name in [node] + peers.map(\.node) {
      guard (1...64).contains(name.text.utf8.count), name.text.unicodeScalars.allSatisfy({ $0.value >= 32 && $0.value != 127 }) else {
        throw .badName(name)
      }
    }
    for peer in peers {
      guard peer.node != node else { throw .peerIsSelf(peer.node) }
      guard seen.insert(peer.node).inserted else { throw .peerTwice(peer.node) }
    }
    for route in routes where !seen.contains(route.peer) { throw .unknownPeer(route.peer, route: route.prefix) }
  }
}
