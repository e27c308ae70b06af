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

  var settings: EntranceSettings { EntranceSettings(socks: socks, forwards: forwards) }
}

extension EntranceSettings.Forward: ExpressibleByArgument {
  public init?(argument: String) { self.init(argument) }
}
