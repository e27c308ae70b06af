import Accelerator
import ArgumentParser
import CommandSupport
import Vocabulary

/// An accelerator's ways in beside HTTP CONNECT.
struct EntranceOptions: ParsableArguments {
  @Option(help: "Where applications come in by SOCKS5, ADDRESS:PORT.")
  var socks: Endpoint?

  @Option(
    name: .customLong("forward"),
    help: "A port whose connections all go to one target, ADDRESS:PORT=HOST:PORT; may be given several times.")
  var forwards: [EntranceSettings.Forward] = []

  @Option(
    help: "Where nftables hands over connections that were dialled to somebody else, ADDRESS:PORT (see `longhaul accelerator rules`).")
  var transparent: Endpoint?

  @Flag(help: "Let targets see the address and port of the client, where those are known; their answers must come back by this machine.")
  var keepSource = false

  @Option(help: "What becomes of a flow whose peer is away or full: direct (at once), or refuse (after a wait of up to 5 s).")
  var bypass = EntranceSettings.Bypass.direct

  var settings: EntranceSettings {
    var settings = EntranceSettings(socks: socks, forwards: forwards)
    settings.transparent = transparent
    settings.keepsSource = keepSource
    settings.bypass = bypass
    return settings
  }
}

extension EntranceSettings.Bypass: ExpressibleByArgument {}

extension EntranceSettings.Forward: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}
