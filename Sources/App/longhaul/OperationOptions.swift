import Accelerator
import ArgumentParser
import CommandSupport
import Vocabulary

/// How an accelerator is operated: the file with its settings, its figures, its end.
struct OperationOptions: ParsableArguments {
  @Option(
    name: .customLong("config"),
    help:
      "A YAML file with settings (docs/operations/accelerator.md); options and LONGHAUL_... in the environment win over it. SIGHUP reads it again."
  )
  var settingsFile: String?

  @Option(help: "Where figures are told for Prometheus, and `longhaul flows` asks, ADDRESS:PORT.")
  var metrics: Endpoint?

  @Option(help: "Seconds that living flows have to end after SIGTERM; a second SIGTERM, or SIGINT, ends them at once.")
  var drain: Double?

  func validate() throws {
    if let drain, !AcceleratorSettings.drainRange.contains(drain) { throw ValidationError("--drain \(drain): must be from 0 to 3600 s") }
  }
}
