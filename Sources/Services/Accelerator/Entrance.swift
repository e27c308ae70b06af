import Flows
import NIOCore
import NIOPosix
import Sockets
import Vocabulary

/// A way in: how a connection that arrives there says where it wants to go.
enum Entrance: Sendable, Hashable {
  case connect
  case socks
  case forward(FlowTarget)
  /// The connection was dialled to its target, and never knew better.
  case transparent(IPAddress)
}

extension AcceleratorSettings {
  /// Every way in, where it listens, and the option that said so.
  var entrancesInOrder: [(entrance: Entrance, place: Endpoint, option: String)] {
    var all: [(entrance: Entrance, place: Endpoint, option: String)] = []
    if let entrance { all.append((.connect, entrance, "--entrance")) }
    if let socks = entrances.socks { all.append((.socks, socks, "--socks")) }
    for forward in entrances.forwards {
      all.append((.forward(FlowTarget(host: forward.target.host, port: forward.target.port)), forward.listen, "--forward"))
    }
    if let transparent = entrances.transparent { all.append((.transparent(transparent.address), transparent, "--transparent")) }
    return all
  }
}

extension AcceleratorPlaces {
  mutating func note(_ entrance: Entrance, at place: Endpoint) {
    switch entrance {
    case .connect: self.entrance = place
    case .socks: socks = place
    case .forward: forwards.append(place)
    case .transparent: transparent = place
    }
  }
}

extension Entrance {
  /// The options of its listening socket and of the connections there.
  func prepare(_ bootstrap: ServerBootstrap) -> ServerBootstrap {
    var bootstrap = bootstrap
    if case .transparent(let address) = self { bootstrap = bootstrap.serverChannelOption(TCPSocket.transparent(for: address), value: 1) }
    bootstrap =
      bootstrap
      .childChannelOption(.autoRead, value: false)
      .childChannelOption(.allowRemoteHalfClosure, value: true)
      .childChannelOption(.maxMessagesPerRead, value: 1)
      .childChannelOption(.recvAllocator, value: growingReads(upTo: TargetDialler.readOctets))
    return TCPSocket.applicationOptions.reduce(bootstrap) { $0.childChannelOption($1.option, value: $1.value) }
  }
}
