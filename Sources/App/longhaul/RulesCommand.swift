import ArgumentParser
import CommandSupport
import LinuxNetwork
import Vocabulary

/// What has to be set on a machine whose accelerator intercepts, or dials with its clients' addresses.
struct RulesCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rules",
    abstract: "Prints, installs or removes what leads connections into a transparent entrance: an nft table, a routing rule and a route.",
    discussion: """
      Without --apply it prints a script. An accelerator that only dials with its clients' addresses (--keep-source) needs the same without --transparent. \
      Installing twice is harmless. When the accelerator has died, new connections pass untouched.
      """)

  @Option(help: "Where the transparent entrance listens, ADDRESS:PORT, as in `longhaul accelerator --transparent`.")
  var transparent: Endpoint?

  @Option(name: .customLong("interface"), help: "Where the connections come in that are taken; may be given several times.")
  var interfaces: [String] = []

  @Option(
    name: .customLong("prefix"), help: "Targets whose connections are taken, ADDRESS/LENGTH; may be given several times. Without one: all.")
  var prefixes: [IPPrefix] = []

  @Flag(help: "For IPv6, where --transparent does not tell.")
  var ipv6 = false

  @Flag(help: "Take back what was installed.")
  var remove = false

  @Flag(help: "Do it, instead of printing it; takes CAP_NET_ADMIN.")
  var apply = false

  func validate() throws {
    if let wrong = interfaces.first(where: { !InterceptionRules.isInterface($0) }) {
      throw ValidationError("--interface \(wrong): not the name of an interface")
    }
    if remove { return }
    if transparent != nil, interfaces.isEmpty {
      throw ValidationError("--interface is missing: through which interface do the connections come in that --transparent shall take?")
    }
    if transparent == nil, !interfaces.isEmpty || !prefixes.isEmpty {
      throw ValidationError("--transparent is missing: where shall the connections go that come in at --interface?")
    }
    if let wrong = prefixes.first(where: { $0.base.octets.count != (family == .v6 ? 16 : 4) }) {
      throw ValidationError("--prefix \(wrong): not of the same family as --transparent")
    }
  }

  func run() throws {
    let rules = InterceptionRules(family: family, listener: transparent, interfaces: interfaces, prefixes: prefixes)
    guard apply else { return print(rules.script(removing: remove), terminator: "") }
    if remove { try rules.remove() } else { try rules.install() }
  }

  private var family: InterceptionRules.Family {
    if let transparent, transparent.address.octets.count == 16 { return .v6 }
    return ipv6 ? .v6 : .v4
  }
}

/// `longhaul accelerator ...` runs one; `longhaul accelerator rules ...` prepares its machine.
struct AcceleratorCommands: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "accelerator", abstract: AcceleratorCommand.configuration.abstract,
    subcommands: [AcceleratorCommand.self, RulesCommand.self],
    defaultSubcommand: AcceleratorCommand.self)
}
