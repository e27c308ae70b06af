import ArgumentParser
import Carriers
import CommandSupport
import NIOCore
import NIOPosix
import SCTP
import Sockets
import Vocabulary

struct SCTPCommand: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sctp", abstract: "Tries SCTP against any stack, over UDP (RFC 6951) or TCP: an echo, a client, a sink, a source.",
    subcommands: [EchoTrial.self, ClientTrial.self, SinkTrial.self, SourceTrial.self])
}

enum CarrierChoice: String, ExpressibleByArgument, CaseIterable { case udp, tcp }

enum SchedulerChoice: String, ExpressibleByArgument, CaseIterable {
  case firstCome = "first-come"
  case roundRobin = "round-robin"
  case roundRobinPerPacket = "round-robin-per-packet"
  case fairCapacity = "fair"

  var scheduler: StreamScheduler {
    switch self {
    case .firstCome: .firstCome
    case .roundRobin: .roundRobin
    case .roundRobinPerPacket: .roundRobinPerPacket
    case .fairCapacity: .fairCapacity
    }
  }
}

/// `COMMAND@SECONDS`: what is done so long after the association stands.
struct PlannedCommand: ExpressibleByArgument {
  var after: TimeSpan
  var command: SCTPTrialCommand

  init?(argument: String) {
    guard let at = argument.lastIndex(of: "@"), let seconds = Double(argument[argument.index(after: at)...]),
      (0...86_400).contains(seconds),
      let command = SCTPTrialCommand(argument[..<at])
    else { return nil }
    self.init(after: .seconds(seconds), command: command)
  }

  init(after: TimeSpan, command: SCTPTrialCommand) {
    self.after = after
    self.command = command
  }
}

/// `ADDRESS@SECONDS`.
struct PlannedMove: ExpressibleByArgument {
  var planned: PlannedCommand

  init?(argument: String) {
    guard let planned = PlannedCommand(argument: "move " + argument) else { return nil }
    self.planned = planned
  }
}

/// What both sides of a trial can be told.
struct TrialOptions: ParsableArguments {
  @Option(help: "What carries the packets: udp or tcp.")
  var carrier = CarrierChoice.udp

  @Option(help: "Our SCTP port.")
  var sctpPort: UInt16 = 7_600

  @Option(help: "The peer's SCTP port; ours if not given.")
  var peerPort: UInt16?

  @Option(help: "The endpoint pair shared key of AUTH in hexadecimal digits. Without one there is no AUTH, and so no ASCONF.")
  var key: String?

  @Option(help: "The number of the key; packets under any other are refused.")
  var keyId: UInt16 = 0

  @Flag(inversion: .prefixedNo, help: "Authenticated chunks (RFC 4895); as soon as there is a key.")
  var auth = true

  @Flag(inversion: .prefixedNo, help: "Addresses that change (RFC 5061).")
  var asconf = true

  @Flag(inversion: .prefixedNo, help: "Streams that are reset and added (RFC 6525).")
  var reset = true

  @Flag(inversion: .prefixedNo, help: "Messages that may be given up (RFC 3758).")
  var prsctp = true

  @Flag(inversion: .prefixedNo, help: "Messages that interleave (I-DATA, RFC 8260).")
  var idata = false

  @Flag(inversion: .prefixedNo, help: "Offer HMAC-SHA-1 beside HMAC-SHA-256.")
  var sha1 = true

  @Flag(inversion: .prefixedNo, help: "Find the size of packets by probes, up to --mtu (RFC 8899, UDP).")
  var pmtud = false

  @Option(help: "Which stream comes next: \(SchedulerChoice.allCases.map(\.rawValue).joined(separator: ", ")).")
  var scheduler = SchedulerChoice.firstCome

  @Option(help: "Octets of an SCTP packet on UDP.")
  var mtu = DatagramCarrier.standardMTU

  @Option(help: "The least retransmission timeout, in milliseconds (RFC 9260 says 1000).")
  var minimumRto = 1_000

  @Option(help: "The first retransmission timeout, in milliseconds (RFC 9260 says 1000).")
  var initialRto = 1_000

  @Option(help: "Give each message up when it has been sent again so often (RFC 7496).")
  var rtx: UInt16?

  @Option(help: "Give each message up when it is older than so many milliseconds (RFC 3758).")
  var ttl: Int?

  @Flag(help: "Send messages unordered; an echo sends all back unordered, since it is not told how they came.")
  var unordered = false

  @Option(
    name: .customLong("do"), parsing: .singleValue,
    help:
      "COMMAND@SECONDS: do so this long after the association stands. The same commands work on standard input: \(SCTPTrialCommand.help).")
  var planned: [PlannedCommand] = []

  @Option(parsing: .singleValue, help: "ADDRESS@SECONDS: short for --do 'move ADDRESS@SECONDS'.")
  var moveTo: [PlannedMove] = []

  @Flag(name: .shortAndLong, help: "Print every event of the association on standard error.")
  var verbose = false

  @Flag(help: "Print events and results as JSON, one object a line, on standard output.")
  var json = false

  func validate() throws {
    if !(512...65_000).contains(mtu) { throw ValidationError("--mtu \(mtu): must be from 512 to 65000 octets") }
    for (name, value) in [("--minimum-rto", minimumRto), ("--initial-rto", initialRto), ("--ttl", ttl ?? 10)]
    where !(name == "--ttl" ? 1...3_600_000 : 10...60_000).contains(value) {
      throw ValidationError("\(name) \(value): must be from \(name == "--ttl" ? "1 to 3600000" : "10 to 60000") milliseconds")
    }
    if rtx != nil, ttl != nil { throw ValidationError("--rtx and --ttl: give one of them") }
    if let key, Self.octets(key) == nil { throw ValidationError("--key: not an even number of hexadecimal digits") }
    if key == nil, keyId != 0 { throw ValidationError("--key-id \(keyId): there is no --key") }
  }

  static func octets(_ text: String) -> [UInt8]? {
    let digits = text.map(\.hexDigitValue)
    guard !digits.isEmpty, digits.count % 2 == 0 else { return nil }
    var octets: [UInt8] = []
    for index in stride(from: 0, to: digits.count, by: 2) {
      guard let high = digits[index], let low = digits[index + 1] else { return nil }
      octets.append(UInt8(high << 4 | low))
    }
    return octets
  }

  var association: AssociationConfiguration {
    let key = key.flatMap(Self.octets)
    var configuration = AssociationConfiguration(endpointKey: key ?? [])
    configuration.endpointKeyIdentifier = keyId
    configuration.port = sctpPort
    configuration.peerPort = peerPort
    configuration.scheduler = scheduler.scheduler
    configuration.features.isRequired = false
    configuration.features.authentication = key != nil && auth
    configuration.features.reconfiguration = key != nil && auth && asconf
    configuration.features.streamReset = reset
    configuration.features.partialReliability = prsctp
    configuration.features.interleaving = idata
    configuration.features.pathMTUDiscovery = pmtud
    configuration.features.offersSHA1 = sha1
    configuration.paths.minimumRTO = .milliseconds(Int64(minimumRto))
    configuration.paths.initialRTO = .milliseconds(Int64(initialRto))
    configuration.lifetimeWithoutCarrier = .seconds(30 as Int64)  // a person who tries something does not wait for a session's ten minutes
    return configuration
  }

  func settings(_ role: SCTPTrialSettings.Role) -> SCTPTrialSettings {
    var settings = SCTPTrialSettings(role: role)
    settings.isUnordered = unordered
    if let rtx { settings.patience = .retransmissions(rtx) }
    if let ttl { settings.patience = .time(.milliseconds(Int64(ttl))) }
    settings.plan = (planned + moveTo.map(\.planned)).map { (after: $0.after, command: $0.command) }
    return settings
  }

  var output: SCTPTrialRunner.Output { json ? .json : verbose ? .events : .results }
}

/// What a passive role is told.
struct ListeningOptions: ParsableArguments {
  @Option(
    parsing: .singleValue,
    help:
      "Where packets come in, ADDRESS:PORT; an address of this machine, since it is the source of all answers. Several are told to the peer."
  )
  var listen: [Endpoint]

  @Flag(help: "End with the first association.")
  var once = false

  func validate() throws {
    if listen.isEmpty { throw ValidationError("--listen is missing: where should packets come in?") }
    for endpoint in listen where endpoint.address == .v4(0) || endpoint.address == .v6(high: 0, low: 0) {
      throw ValidationError("--listen \(endpoint): name one of this machine's addresses, for instance 127.0.0.1:\(endpoint.port)")
    }
  }
}

/// What an active role is told.
struct SendingOptions: ParsableArguments {
  @Option(
    parsing: .singleValue, help: "Where the peer takes packets, ADDRESS:PORT; further ones are other addresses of the same peer (UDP).")
  var connect: [Endpoint]

  @Option(
    parsing: .singleValue,
    help: "The address to send from; 127.0.0.1 or ::1 if the peer is there. Further ones are told to the peer (UDP).")
  var local: [IPAddress] = []

  @Option(help: "The UDP port to send from; any if not given.")
  var localPort: UInt16 = 0

  @Option(help: "Octets of each message.")
  var size = 1_000

  @Option(help: "Messages.")
  var count = 100

  @Option(help: "Messages in a second; as fast as they go if not given.")
  var rate: Double?

  @Option(help: "Streams that they are spread over.")
  var streams = 1

  func validate() throws {
    let largest = SCTPTrialSettings.largestMessage
    guard let first = connect.first else { throw ValidationError("--connect is missing: where is the peer?") }
    if !(1...largest).contains(size) { throw ValidationError("--size \(size): must be from 1 to \(largest) octets") }
    if count < 1 { throw ValidationError("--count \(count): must be at least 1") }
    if let rate, !(0.001...1_000_000).contains(rate) {
      throw ValidationError("--rate \(rate): must be from 0.001 to 1000000 messages a second")
    }
    if !(1...65_535).contains(streams) { throw ValidationError("--streams \(streams): must be from 1 to 65535") }
    if local.isEmpty, !first.address.isLoopback {
      throw ValidationError("--local is missing: which address of this machine should packets to \(first) come from?")
    }
  }

  var sources: [Endpoint] {
    (local.isEmpty ? connect.prefix(1).map(\.address) : local).map { Endpoint(address: $0, port: localPort) }
  }

  func add(to settings: inout SCTPTrialSettings) {
    settings.size = size
    settings.count = count
    settings.streams = streams
    settings.rate = rate
  }
}

struct EchoTrial: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "echo", abstract: "Sends back every message, on its stream.")
  @OptionGroup var listening: ListeningOptions
  @OptionGroup var options: TrialOptions

  func run() async throws { try await runTrial(.echo, listening, options) }
}

struct SinkTrial: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "sink", abstract: "Takes messages and counts them.")
  @OptionGroup var listening: ListeningOptions
  @OptionGroup var options: TrialOptions

  func run() async throws { try await runTrial(.sink, listening, options) }
}

struct ClientTrial: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "client", abstract: "Sends messages to an echo and wants each back as it was.")
  @OptionGroup var sending: SendingOptions
  @OptionGroup var options: TrialOptions

  func run() async throws { try await runTrial(.client, sending, options) }
}

struct SourceTrial: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "source", abstract: "Sends messages to a sink, then shuts down.")
  @OptionGroup var sending: SendingOptions
  @OptionGroup var options: TrialOptions

  func run() async throws { try await runTrial(.source, sending, options) }
}

private func runTrial(_ role: SCTPTrialSettings.Role, _ listening: ListeningOptions, _ options: TrialOptions) async throws {
  var settings = options.settings(role)
  settings.isOnce = listening.once
  let trial = SCTPTrialRunner(settings, options.association, output: options.output)
  try await runUntilSignalled {
    try await options.carrier == .udp
      ? trial.listenUDP(listening.listen, mtu: options.mtu) : trial.listenTCP(listening.listen)
  }
}

private func runTrial(_ role: SCTPTrialSettings.Role, _ sending: SendingOptions, _ options: TrialOptions) async throws {
  var settings = options.settings(role)
  sending.add(to: &settings)
  let trial = SCTPTrialRunner(settings, options.association, output: options.output)
  try await runUntilSignalled {
    try await options.carrier == .udp
      ? trial.connectUDP(from: sending.sources, to: sending.connect, mtu: options.mtu)
      : trial.connectTCP(from: sending.local.first, to: sending.connect[0])
  }
}
