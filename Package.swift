// swift-tools-version: 6.2
// The folders of Sources are the layers, and this file holds their rule: a target names only targets below it.
// LONGHAUL_ONLY=SCTPTests,FlowsTests keeps only those targets and what they stand on, so that an engine builds and tests alone in seconds.
import PackageDescription

let strict: [SwiftSetting] = [.treatAllWarnings(as: .error), .enableUpcomingFeature("ExistentialAny")]

/// `scripts/fuzz` names libFuzzer here: the engines then count the branches that they take, and the program `fuzz` is there. A scratch folder of its own keeps such a build apart.
let fuzzer = Context.environment["LONGHAUL_FUZZER"]
let counted: [SwiftSetting] = fuzzer == nil ? strict : strict + [.unsafeFlags(["-sanitize=fuzzer"])]

/// A target of one layer: its folder is `Sources/<layer>/<name>`.
func layer(_ folder: String, _ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .target(
    name: name, dependencies: dependencies, path: "Sources/\(folder)/\(name)", exclude: ["README.md"],
    swiftSettings: folder == "Engines" ? counted : strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .testTarget(name: name, dependencies: dependencies, path: "Tests/\(name)", swiftSettings: strict)
}

let nioCore = Target.Dependency.product(name: "NIOCore", package: "swift-nio")
let nioPosix = Target.Dependency.product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1 = Target.Dependency.product(name: "NIOHTTP1", package: "swift-nio")
let nioEmbedded = Target.Dependency.product(name: "NIOEmbedded", package: "swift-nio")
let logging = Target.Dependency.product(name: "Logging", package: "swift-log")
let crypto = Target.Dependency.product(name: "Crypto", package: "swift-crypto")
let argumentParser = Target.Dependency.product(name: "ArgumentParser", package: "swift-argument-parser")
let hummingbird = Target.Dependency.product(name: "Hummingbird", package: "hummingbird")
let hummingbirdCore = Target.Dependency.product(name: "HummingbirdCore", package: "hummingbird")
let yams = Target.Dependency.product(name: "Yams", package: "Yams")
let nioTLS = Target.Dependency.product(name: "NIOTLS", package: "swift-nio")
let nioSSL = Target.Dependency.product(name: "NIOSSL", package: "swift-nio-ssl")
let x509 = Target.Dependency.product(name: "X509", package: "swift-certificates")
let asn1 = Target.Dependency.product(name: "SwiftASN1", package: "swift-asn1")
let collections = Target.Dependency.product(name: "DequeModule", package: "swift-collections")
let heaps = Target.Dependency.product(name: "HeapModule", package: "swift-collections")

let shims: [Target] = [
  .systemLibrary(name: "CZstd", path: "Sources/C/CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
  .target(name: "CChecksum", path: "Sources/C/CChecksum"),
  .target(name: "CLinux", path: "Sources/C/CLinux"),
  .target(name: "CStorage", path: "Sources/C/CStorage"),
]

let engines: [Target] = [
  layer("Engines", "Vocabulary"),
  layer("Engines", "Simulation", ["Vocabulary"]),
  layer("Engines", "SCTP", ["Vocabulary", "CChecksum", nioCore, collections, heaps]),
  layer("Engines", "Flows", ["Vocabulary", nioCore, collections]),
  layer("Engines", "Tunnel", ["Vocabulary", "Flows", "Dedup", nioCore, collections]),
  layer("Engines", "Dedup", ["Vocabulary", nioCore, collections]),
  layer("Engines", "Paths", ["Vocabulary"]),
  layer("Engines", "Placement", ["Vocabulary", "Paths"]),
  layer("Engines", "Control", ["Vocabulary", "Paths", "Placement"]),
]

let adapters: [Target] = [
  layer("Adapters", "SettingsFiles", ["Vocabulary", yams]),
  layer("Adapters", "Sockets", ["Vocabulary", nioCore, nioPosix]),
  layer("Adapters", "Authentication", ["Vocabulary", "SCTP", "Control", crypto]),
  layer("Adapters", "Certificates", ["Vocabulary", "Control", crypto, x509, asn1, nioCore, nioTLS, nioSSL, logging]),
  layer("Adapters", "Enrolment", ["Vocabulary", "Certificates", "Sockets", nioCore, nioPosix, nioHTTP1, nioSSL, logging]),
  layer("Adapters", "Sealing", [crypto, nioCore]),
  layer("Adapters", "Relay", ["Vocabulary", "Flows", nioCore, nioPosix, logging]),
  layer(
    "Adapters", "Carriers",
    [
      "Vocabulary", "SCTP", "Flows", "Relay", "Sockets", "Authentication", "Certificates", "Sealing", "Dedup", "Compression", "ChunkStores",
      nioCore,
      nioPosix, nioHTTP1, logging,
    ]),
  layer("Adapters", "Compression", ["Vocabulary", "CZstd", "Dedup", "Flows", "Relay", "ChunkStores", crypto, nioCore, collections]),
  layer("Adapters", "ChunkStores", ["Vocabulary", "Dedup", "CChecksum", "CStorage", crypto, nioCore, nioPosix, collections, logging]),
  layer("Adapters", "Telemetry", ["Vocabulary", "Sockets", nioCore, nioPosix, nioHTTP1, logging]),
  layer("Adapters", "Interception", ["Vocabulary", "Flows", "Relay", nioCore, nioPosix, nioHTTP1, logging]),
  layer("Adapters", "Probing", ["Vocabulary", "Paths", "Control", "Sockets", nioCore, nioPosix, logging]),
  layer("Adapters", "Hypervisors", ["Vocabulary", "Control", nioCore, nioPosix, logging]),
  layer("Adapters", "ControlLink", ["Vocabulary", "Control", "Certificates", "Sockets", nioCore, nioPosix, nioHTTP1, logging]),
  layer("Adapters", "LinuxNetwork", ["Vocabulary", "CLinux"]),
  layer("Adapters", "WANEmulation", ["Vocabulary", "LinuxNetwork"]),
]

let services: [Target] = [
  layer(
    "Services", "Agent",
    [
      "Vocabulary", "SCTP", "Flows", "Control", "Authentication", "Relay", "Sockets", "Carriers", "Certificates", "ChunkStores",
      "ControlLink", nioCore, nioPosix, logging,
    ]),
  layer(
    "Services", "Client",
    [
      "Vocabulary", "SCTP", "Flows", "Control", "Paths", "Authentication", "Relay", "Sockets", "Carriers", "Certificates", "Interception",
      "Probing", "ChunkStores", "ControlLink", nioCore, nioPosix, logging,
    ]),
  layer(
    "Services", "Accelerator",
    [
      "Vocabulary", "Flows", "Tunnel", "Dedup", "Control", "Authentication", "Certificates", "Relay", "Sockets", "Compression",
      "ChunkStores", "Telemetry", "LinuxNetwork", "Interception", "Probing", "ControlLink",
      "SettingsFiles", nioCore, nioPosix, logging,
    ]),
  layer(
    "Services", "Controller",
    [
      "SettingsFiles", "Vocabulary", "Control", "Paths", "Placement", "Authentication", "Certificates", "Sockets", "Hypervisors",
      hummingbird,
      hummingbirdCore, nioCore,
      nioPosix,
      nioHTTP1, logging,
    ]),
  layer(
    "Services", "Lab",
    [
      "Vocabulary", "Control", "Authentication", "Hypervisors", "LinuxNetwork", "WANEmulation", "Relay", "Sockets", crypto, nioCore,
      nioPosix,
    ]),
]

let apps: [Target] = [
  layer("App", "CommandSupport", ["Agent", "ChunkStores", "Enrolment", "Sockets", "Vocabulary", argumentParser, logging]),
  .executableTarget(
    name: "longhaul",
    dependencies: [
      "CommandSupport", "Agent", "ChunkStores", "Client", "Accelerator", "Controller", "Lab", "LinuxNetwork", "ControlLink",
      "Authentication", "Carriers",
      "Certificates", "Enrolment", "Telemetry", "Sealing", "SCTP", "Sockets",
      "WANEmulation", "Control", "Vocabulary",
      argumentParser, logging, nioCore, nioPosix,
    ],
    path: "Sources/App/longhaul", exclude: ["README.md"], swiftSettings: strict),
  // Installed in guests: it links its own runtime and the C library, so that it starts in an image that has neither.
  // FoundationEssentials (JSON) names three archives that a static link of the driver leaves out.
  .executableTarget(
    name: "longhaul-agent", dependencies: ["CommandSupport"],
    path: "Sources/App/longhaul-agent", exclude: ["README.md"], swiftSettings: strict,
    linkerSettings: [.unsafeFlags(["-static-executable", "-l_FoundationCShims", "-l_FoundationCollections", "-lswiftSynchronization"])]),
]

let testTargets: [Target] = [
  .target(
    name: "FuzzHarness", dependencies: ["SCTP", "Flows", "Tunnel", "Dedup", "Vocabulary", nioCore], path: "Fuzz/Harness",
    swiftSettings: counted),
  tests("FuzzTests", ["FuzzHarness", "Vocabulary"]),
  .target(
    name: "TestSupport", dependencies: ["Control", "Vocabulary", nioCore, nioPosix, nioHTTP1, logging], path: "Tests/Support",
    exclude: ["README.md"], swiftSettings: strict),
  .target(
    name: "CertificateSupport", dependencies: ["Certificates"], path: "Tests/CertificateSupport", exclude: ["README.md"],
    swiftSettings: strict),
  tests("ArchitectureTests", []),
  tests("SCTPTests", ["SCTP", "Flows", "Simulation", "Vocabulary", nioCore]),
  tests("FlowsTests", ["Flows", "Simulation", "Vocabulary", nioCore]),
  tests("TunnelTests", ["Tunnel", "Dedup", "Flows", "Simulation", "Vocabulary", nioCore]),
  tests("DedupTests", ["Dedup", "SCTP", "Vocabulary", crypto, nioCore]),
  .target(name: "StoreSamples", dependencies: ["Dedup", "Vocabulary", nioCore], path: "Tests/StoreSamples", swiftSettings: strict),
  .executableTarget(
    name: "StoreProbe", dependencies: ["StoreSamples", "ChunkStores", "Dedup", "Vocabulary", nioCore, logging], path: "Tests/StoreProbe",
    swiftSettings: strict),
  tests(
    "ChunkStoreTests",
    ["StoreSamples", "StoreProbe", "TestSupport", "ChunkStores", "LinuxNetwork", "Dedup", "Vocabulary", nioCore, nioPosix, logging]),
  tests("ControlTests", ["Control", "Paths", "Placement", "Vocabulary"]),
  tests("SealingTests", ["Sealing", crypto, nioCore]),
  tests(
    "CarrierTests",
    [
      "Carriers", "ChunkStores", "Compression", "Dedup", "Relay", "Authentication", "Certificates", "Sealing", "SCTP", "Flows",
      "Vocabulary", nioCore, nioPosix, nioEmbedded, logging,
    ]),
  tests(
    "CertificateTests",
    ["Certificates", "Enrolment", "Sockets", "Control", "Vocabulary", crypto, x509, asn1, nioCore, nioPosix, nioEmbedded, nioSSL, logging]),
  tests(
    "SessionTests",
    [
      "TestSupport", "CertificateSupport", "Agent", "Client", "Accelerator", "Authentication", "ChunkStores", "Control", "LinuxNetwork",
      "Vocabulary",
      nioCore, nioPosix, logging,
    ]),
  tests(
    "AcceleratorTests",
    [
      "TestSupport", "CertificateSupport", "Certificates", "Sockets", "SettingsFiles", "Accelerator", "Control", "Compression",
      "ChunkStores", "Dedup",
      "Telemetry",
      "LinuxNetwork",
      "Interception",
      "Relay", "Tunnel", "Flows", "Vocabulary", nioCore, nioPosix, nioEmbedded,
    ]),
  tests(
    "ControllerTests",
    [
      "TestSupport", "CertificateSupport", "Controller", "ControlLink", "Certificates", "Hypervisors", "Control", "Authentication",
      "Vocabulary",
      nioCore, nioPosix, logging,
    ]),
  tests(
    "ControlLinkTests",
    [
      "TestSupport", "ControlLink", "Certificates", "Agent", "Client", "Accelerator", "Authentication", "Control", "Vocabulary", nioCore,
      nioPosix,
      nioHTTP1, logging,
    ]),
  tests(
    "ProbingTests",
    ["TestSupport", "Probing", "LinuxNetwork", "WANEmulation", "Paths", "Control", "Vocabulary", nioCore, nioPosix, logging]),
  .testTarget(
    name: "InteroperationTests",
    dependencies: ["Carriers", "LinuxNetwork", "SCTP", "Sockets", "Vocabulary", nioCore, nioPosix],
    path: "Tests/InteroperationTests", exclude: ["usrsctp-peer.c", "linux-peer.c", "build-peer.sh"], swiftSettings: strict),
  tests("LabTests", ["Lab", "LinuxNetwork", "WANEmulation", "Vocabulary"]),
]

let packages: [(name: String, dependency: Package.Dependency)] = [
  ("swift-nio", .package(url: "https://github.com/apple/swift-nio", from: "2.101.2")),
  ("swift-log", .package(url: "https://github.com/apple/swift-log", from: "1.16.2")),
  ("swift-crypto", .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2")),
  ("swift-certificates", .package(url: "https://github.com/apple/swift-certificates", from: "1.21.1")),
  ("swift-asn1", .package(url: "https://github.com/apple/swift-asn1", from: "1.7.4")),
  ("swift-nio-ssl", .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.6")),
  ("swift-collections", .package(url: "https://github.com/apple/swift-collections", from: "1.6.0")),
  ("swift-argument-parser", .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2")),
  ("hummingbird", .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1")),
  ("Yams", .package(url: "https://github.com/jpsim/Yams", from: "6.2.2")),
]

var chosen = shims + engines + adapters + services + apps + testTargets
if let fuzzer {
  chosen.append(
    .executableTarget(
      name: "fuzz", dependencies: ["FuzzHarness"], path: "Fuzz/Driver", swiftSettings: strict,
      linkerSettings: [.unsafeFlags([fuzzer, "-lstdc++"])]))
}
if let only = Context.environment["LONGHAUL_ONLY"] {
  var wanted = Set(only.split(separator: ",").map(String.init))
  var frontier = wanted
  while !frontier.isEmpty {
    let found = chosen.filter { frontier.contains($0.name) }.flatMap(\.dependencies).compactMap { dependency -> String? in
      if case .byNameItem(let name, _) = dependency { return name }
      return nil
    }
    frontier = Set(found).subtracting(wanted)
    wanted.formUnion(frontier)
  }
  chosen = chosen.filter { wanted.contains($0.name) }
}
let used = Set(
  chosen.flatMap(\.dependencies).compactMap { dependency -> String? in
    if case .productItem(_, let package, _, _) = dependency { return package }
    return nil
  })

let package = Package(
  name: "longhaul",
  dependencies: packages.filter { used.contains($0.name) }.map(\.dependency),
  targets: chosen,
  swiftLanguageModes: [.v6])
