import Foundation
import LinuxNetwork
import NIOCore
import NIOPosix
import Vocabulary

/// Whether this process may make network namespaces; tests that need them are skipped without, and say why.
let mayMakeNamespaces: Bool = geteuid() == 0 && Shell.find("ip") != nil

/// Two hosts in namespaces, joined by two cables: what runs on one of them can move to the other. usrsctp leaves the source of its packets to the routes, so each cable is a network of
/// its own.
final class TwoLinks {
  static let ours = [IPAddress("10.231.1.1")!, IPAddress("10.231.2.1")!]
  static let theirs = [IPAddress("10.231.1.2")!, IPAddress("10.231.2.2")!]

  let here: Namespace
  let there: Namespace
  /// Its thread is in our namespace, and so are the sockets that it makes.
  let group: MultiThreadedEventLoopGroup

  init() async throws {
    here = Namespace("lhsctp-a\(getpid())")
    there = Namespace("lhsctp-z\(getpid())")
    group = MultiThreadedEventLoopGroup(numberOfThreads: 1)
    for host in [here, there] {
      host.delete()
      try host.create()
      // usrsctp leaves the source of an answer to the routes: it may come by the other cable.
      try host.set(["net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.default.rp_filter": "0"])
    }
    for (index, (a, z)) in zip(Self.ours, Self.theirs).enumerated() {
      try Namespace.connect((here, device: "link\(index)", address: "\(a)/24"), (there, device: "link\(index)", address: "\(z)/24"))
    }
    let namespace = here
    try await group.next().submit { try CurrentThread.enter(namespace) }.get()
  }

  var loop: any EventLoop { group.next() }

  /// From now on nothing goes through the first cable.
  func cut() throws {
    for host in [here, there] { try host.ip("link", "set", "link0", "down") }
  }

  func remove() async {
    try? await group.shutdownGracefully()
    for host in [here, there] { host.delete() }
  }
}
