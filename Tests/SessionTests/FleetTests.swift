import Client
import Foundation
import NIOCore
import NIOPosix
import Testing
import Vocabulary

@Suite("Many sessions of one agent", .serialized, .timeLimit(.minutes(2)))
struct FleetTests {
  @Test("move at once: all arrive, with all their flows, and go on; the same GO again moves none")
  func fleet() async throws {
    let keyFile = try Road.keyFile()
    defer { try? FileManager.default.removeItem(atPath: keyFile) }
    let agent = try await RestartTests.startAgent(at: Endpoint("0.0.0.0:0")!, keyFile: keyFile)
    let service = try await ServerBootstrap(group: MultiThreadedEventLoopGroup.singleton).serverChannelOption(.backlog, value: 1_024).bind(
      host: "127.0.0.1", port: 0
    ).get()
    let port = UInt16(try #require(service.localAddress?.port))
    let fleet = try await ClientFleet(
      200, machine: "vm", agent: Endpoint("127.0.0.1:\(agent.at.port)")!, keyFile: keyFile, loops: MultiThreadedEventLoopGroup.singleton,
      logger: Road.quiet)
    #expect(try await fleet.open().count == 200)
    #expect(try await fleet.openFlows(400, to: [port], inFirst: 200).count == 400)
    let there = Endpoint("127.0.0.2:\(agent.at.port)")!
    #expect(try await fleet.move(200, to: there, epoch: 1, limit: .seconds(60.0)).count == 200)
    #expect(try await fleet.count() == (200, 400))
    // Both directions work, and the old flows are still there beside the new ones.
    #expect(try await fleet.openFlows(200, to: [port], inFirst: 200).count == 200)
    #expect(try await fleet.count() == (200, 600))
    #expect(try await fleet.move(200, to: there, epoch: 1, limit: .milliseconds(300 as Int64)).isEmpty)
    try await fleet.close()
    try await service.close()
    agent.task.cancel()
    try? await agent.task.value
  }
}
