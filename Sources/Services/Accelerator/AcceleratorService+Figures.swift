import Certificates
import Control
import NIOCore
import Sockets
import Synchronization
import Telemetry
import Vocabulary

#if canImport(FoundationEssentials)
  import FoundationEssentials
#else
  import Foundation
#endif

/// The figures of a running accelerator, and the port that tells them.
extension AcceleratorService {
  /// What is kept between two looks.
  struct FiguresState: Sendable {
    var rates = FigureRates()
    var since: Instant?
    var isDraining = false
  }

  func figures() async throws -> AcceleratorFigures {
    var sum = ShardFigures()
    for shard in shards.withLock({ $0 }) { sum += try await shard.eventLoop.submit { shard.value.figures }.get() }
    let now = TunnelLink.now()
    let (rates, since, isDraining) = figuresState.withLock { [sum] state in
      (state.rates.update(sum.peers, at: now), state.since ?? now, state.isDraining)
    }
    let ledger = ledger.withLock { $0 }
    return AcceleratorFigures(
      node: settings.node, version: NodeDescription(node: settings.node, role: .accelerator).version, uptime: now - since,
      isDraining: isDraining, loops: sum, accounts: (ledger?.accounts ?? []).map { ($0.name, $0.figures) },
      grantedOctets: ledger?.grantedOctets ?? 0, rates: rates, store: openStore.withLock { $0 }?.figures, process: .now())
  }

  /// Who talks to whom, the largest first.
  package func flows() async throws -> FlowsDocument {
    var rows: [FlowsDocument.Row] = []
    for shard in shards.withLock({ $0 }) { rows += try await shard.eventLoop.submit { shard.value.flowRows }.get() }
    return FlowsDocument(node: settings.node.text, rows: rows)
  }

  /// The page for Prometheus.
  package func metrics() async throws -> String { try await figures().page }

  /// Listens for who wants figures; nil where nobody shall.
  func tellFigures(
    on loop: any EventLoop, _ security: TunnelSecurity
  ) async throws(AcceleratorError) -> FiguresServer? {
    figuresState.withLock { $0.since = TunnelLink.now() }
    guard let place = settings.metrics else { return nil }
    // Who talks to whom is for this machine's own users, and for operators with certificates.
    var keeper: IdentityKeeper?
    if case .certificates(let own) = security, !place.address.isLoopback { keeper = own }
    let isPrivate = place.address.isLoopback || keeper != nil
    let pages: [String: FiguresServer.Page] = [
      "/metrics": { [weak self] in await FiguresServer.answer(MetricsPage.contentType) { try await self?.metrics() } },
      "/healthz": { [weak self] in
        self?.figuresState.withLock { $0.isDraining } == true ? .init("draining\n", status: .serviceUnavailable) : .init("ok\n")
      },
      "/flows": { [weak self] in
        guard isPrivate else {
          return .init(
            "flows are told on a loopback address, or to operators where the accelerator has --certificates\n", status: .forbidden)
        }
        return await FiguresServer.answer("application/json") { try await self?.flows().json }
      },
    ]
    var secure: (@Sendable (any Channel) throws -> Void)?
    if let keeper {
      secure = { channel in
        try keeper.current.secure(channel.pipeline.syncOperations, as: .server, expecting: PeerExpectation([.operator, .controller]))
      }
    }
    do {
      return try await FiguresServer.bind(to: place, on: loop, pages: pages, logger: logger, secure: secure)
    } catch {
      throw .cannotListen(place, option: "--metrics", reason: describe(error))
    }
  }
}

extension FiguresServer {
  fileprivate static func answer(_ type: String, _ body: () async throws -> String?) async -> Answer {
    // The loops are gone when the program ends under the question.
    guard let text = try? await body() else { return Answer("stopping\n", status: .serviceUnavailable) }
    return Answer(text, type: type)
  }
}

extension FlowsDocument {
  var json: String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    // Numbers and texts alone: nothing of it fails.
    return ((try? encoder.encode(self)).map { String(decoding: $0, as: UTF8.self) } ?? "{}") + "\n"
  }
}
