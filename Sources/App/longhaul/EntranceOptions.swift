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

  @Option(help: "What becomes of a flow whose peer is away or full: direct (at once, the default), or refuse (after a wait of up to 5 s).")
  var bypass: EntranceSettings.Bypass?

  @Option(help: "The congestion control of flows that go directly: kernel (what the system uses, the default), cubic, or bbr.")
  var directCongestion: EntranceSettings.Congestion?

  func fill(_ draft: inout AcceleratorDraft) {
    draft.socks = socks
    draft.forwards = forwards.isEmpty ? nil : forwards
    draft.transparent = transparent
    draft.keepsSource = keepSource ? true : nil
    draft.bypass = bypass
    draft.directCongestion = directCongestion
  }
}

extension EntranceSettings.Bypass: ExpressibleByArgument {}

extension EntranceSettings.Congestion: ExpressibleByArgument {}

extension EntranceSettings.Forward: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}
