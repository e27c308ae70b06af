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

/// What both sides of a trial can be told.
struct TrialOptions: ParsableArguments {
  @Option(help: "What carries the packets: udp or tcp.")
  var carrier = CarrierChoice.udp

  @Option(help: "Our SCTP port.")
  var sctpPort: UInt16 = 7_600

  @Option(help: "The peer's SCTP port; ours if not given.")
  var peerPort: UInt16?

  @Option(help: "The endpoint pair shared key of AUTH, key 0, in hexadecimal digits. Without one there is no AUTH.")
  var key: String?

  @Flag(help: "Do without ASCONF though there is a key.")
  var noAsconf = false

  @Flag(help: "Offer HMAC-SHA-256 alone, not SHA-1 beside it.")
  var noSha1 = false

  @Option(help: "Octets of an SCTP packet on UDP.")
  var mtu = DatagramCarrier.standardMTU

  @Option(help: "The least retransmission timeout, in milliseconds (RFC 9260 says 1000).")
  var minimumRto = 1_000

  @Flag(name: .shortAndLong, help: "Print every event of the association on standard error.")
  var verbose = false

  func validate() throws {
    if !(512...65_000).contains(mtu) { throw ValidationError("--mtu \(mtu): must be from 512 to 65000 octets") }
    if !(10...60_000).contains(minimumRto) { throw ValidationError("--minimum-rto \(minimumRto): must be from 10 to 60000 milliseconds") }
    if let key, Self.octets(key) == nil { throw ValidationError("--key: not an even number of hexadecimal digits") }
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
    configuration.port = sctpPort
    configuration.peerPort = peerPort
    configuration.features.isRequired = false
    configuration.features.authentication = key != nil
    configuration.features.reconfiguration = key != nil && !noAsconf
    configuration.features.offersSHA1 = !noSha1
    configuration.paths.minimumRTO = .milliseconds(Int64(minimumRto))
    return configuration
  }
}

/// What a passive role is told.
struct ListeningOptions: ParsableArguments {
  @Option(help: "Where packets come in, ADDRESS:PORT; an address of this machine, since it is the source of all answers.")
  var listen: Endpoint

  @Flag(help: "End with the first association.")
  var once = false

  func validate() throws {
    if listen.address == .v4(0) || listen.address == .v6(high: 0, low: 0) {
      throw ValidationError("--listen \(listen): name one of this machine's addresses, for instance 127.0.0.1:\(listen.port)")
    }
  }
}

/// What an active role is told.
struct SendingOptions: ParsableArguments {
  @Option(help: "Where the peer takes packets, ADDRESS:PORT.")
  var connect: Endpoint

  @Option(help: "The address to send from (UDP); 127.0.0.1 or ::1 if the peer is there.")
  var local: IPAddress?

  @Option(help: "Octets of each message.")
  var size = 1_000

  @Option(help: "Messages.")
  var count = 100

  @Option(help: "Streams that they are spread over.")
  var streams = 1

  @Flag(help: "Send them unordered.")
  var unordered = false

  func validate() throws {
    let largest = SCTPTrialSettings.largestMessage
    if !(1...largest).contains(size) { throw ValidationError("--size \(size): must be from 1 to \(largest) octets") }
    if count < 1 { throw ValidationError("--count \(count): must be at least 1") }
    if !(1...65_535).contains(streams) { throw ValidationError("--streams \(streams): must be from 1 to 65535") }
    if local == nil, !isLoopback {
      throw ValidationError("--local is missing: which address of this machine should packets to \(connect) come from?")
    }
  }

  private var isLoopback: Bool {
    switch connect.address {
    case .v4(let value): value >> 24 == 127
    case .v6(let high, let low): high == 0 && low == 1
    }
  }

  var source: IPAddress { local ?? connect.address }

  func settings(_ role: SCTPTrialSettings.Role) -> SCTPTrialSettings {
    var settings = SCTPTrialSettings(role: role)
    settings.size = size
    settings.count = count
    settings.streams = streams
    settings.isUnordered = unordered
    return settings
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

  func run() async throws { try await runTrial(sending.settings(.client), sending, options) }
}

struct SourceTrial: AsyncParsableCommand {
  static let configuration = CommandConfiguration(commandName: "source", abstract: "Sends messages to a sink, then shuts down.")
  @OptionGroup var sending: SendingOptions
  @OptionGroup var options: TrialOptions

  func run() async throws { try await runTrial(sending.settings(.source), sending, options) }
}

private func runTrial(_ role: SCTPTrialSettings.Role, _ listening: ListeningOptions, _ options: TrialOptions) async throws {
  var settings = SCTPTrialSettings(role: role)
  settings.isOnce = listening.once
  let trial = SCTPTrialRunner(settings, options.association, isVerbose: options.verbose)
  try await runUntilSignalled {
    try await options.carrier == .udp
      ? trial.listenUDP(listening.listen, mtu: options.mtu) : trial.listenTCP(listening.listen)
  }
}

private func runTrial(_ settings: SCTPTrialSettings, _ sending: SendingOptions, _ options: TrialOptions) async throws {
  let trial = SCTPTrialRunner(settings, options.association, isVerbose: options.verbose)
  try await runUntilSignalled {
    try await options.carrier == .udp
      ? trial.connectUDP(from: sending.source, to: sending.connect, mtu: options.mtu) : trial.connectTCP(to: sending.connect)
  }
}
